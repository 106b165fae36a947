"""`python -m verify.doctor`."""

import sys

from verify.doctor.cli import main
from verify.printable import guard_streams

if __name__ == "__main__":
    guard_streams()
    sys.exit(main(sys.argv[1:]))
