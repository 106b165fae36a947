"""The records that rooms hand to one another. Values only: no room's logic, no input or output."""
