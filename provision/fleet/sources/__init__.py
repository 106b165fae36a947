"""Where the files of hosts come from: the choice for each kind of file, and hosts that get files by themselves."""
