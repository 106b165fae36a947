"""`python -m verify` and `python verify.pyz`."""

import sys

from verify.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
