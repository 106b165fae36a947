"""The program on hosts that hand files on, or get them by themselves."""
