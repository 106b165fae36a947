"""The programs on hosts that hand files on, or get them by themselves."""
