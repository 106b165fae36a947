"""The program that builds: runs on the builder with whatever Python that machine has, from 3.8 on, and needs nothing but its standard library."""
