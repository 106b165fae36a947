"""`python -m verify.doctor`."""

import sys

from verify.doctor.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
