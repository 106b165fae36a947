"""`python -m provision`: what the launcher runs."""

from provision.cli import main

if __name__ == "__main__":
    main()
