"""One model over several hosts: which hosts form a span, how they start together, and whether they reach one another."""
