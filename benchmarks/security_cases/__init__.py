"""Cases of the security benchmark, one module a group."""
