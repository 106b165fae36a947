"""Hosts that hand files on to each other: the order of transfers, and access for the time of a run."""
