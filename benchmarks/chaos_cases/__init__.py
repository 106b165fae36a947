"""Cases of the chaos benchmark: changes, moments, faults, and what is compared afterwards."""
