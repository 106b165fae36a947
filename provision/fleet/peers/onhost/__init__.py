"""The program on hosts that hand files on."""
