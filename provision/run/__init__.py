"""What the phases of a run share: the run, its hosts, how they are changed, and what one phase hands to the next."""
