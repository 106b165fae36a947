"""What several programs on hosts have: it is packed into each of them, by its name in this tree."""
