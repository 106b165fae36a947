"""The command line: `main` has the commands of the run, the other modules a group of commands each. No decision is taken here."""
