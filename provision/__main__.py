"""`python -m provision`: what the launcher runs."""

from provision.cli.main import main

if __name__ == "__main__":
    main()
