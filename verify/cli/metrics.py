"""Command `verify metrics`: the metrics of this host for Prometheus, as text or in a file for its node exporter."""

import sys
from pathlib import Path

from verify.cli.arguments import Parser, keep
from verify.host.metrics import read_families, render
from verify.records import EXIT_CODES


def main(arguments: list[str]) -> int:
    """Run the command; it fails only where the file cannot be written."""
    parser = Parser(
        prog="verify metrics",
        description="Print the health of the GPUs, the release and the last verification as Prometheus reads them.",
        epilog="exit codes: 0; 3 if the file cannot be written; usage 64",
        hint="verify metrics --prefix /opt/firstlight",
    )
    parser.add_argument("--prefix", metavar="DIR", type=Path, required=True, help="the installation")
    parser.add_argument("--write", metavar="FILE", type=Path, help="write this file (.prom) and print nothing")
    options = parser.parse_args(arguments)
    text = render(read_families(options.prefix))
    if options.write is None:
        sys.stdout.write(text)
        return EXIT_CODES["ok"]
    return EXIT_CODES["ok" if keep(options.write, text) else "error"]
