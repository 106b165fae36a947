"""The build program. It runs on the build host with any Python from 3.8 on and only the standard library."""
