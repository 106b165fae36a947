"""Entry point of `python -m verify` and `python verify.pyz`."""

import sys

from verify.cli.main import main
from verify.printable import guard_streams

if __name__ == "__main__":
    guard_streams()
    sys.exit(main(sys.argv[1:]))
