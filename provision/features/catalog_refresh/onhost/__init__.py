"""The program that runs in the environment of a combination."""
