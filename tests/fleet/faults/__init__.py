"""Real faults of a serving host: the commands that make and undo each, and the check that must find it.

A fault is made by shell commands that root runs on the host, after `PREAMBLE`. Faults of operators are in
`wrong_numbers.py`. The families are the rows of "What is found when" in docs/reference/checks.md.
"""

from dataclasses import dataclass

from tests.fleet.serving import PREFIX
from verify.records import Level, Status

PREAMBLE = f"""
set -eu
prefix={PREFIX} environment=$(readlink -f {PREFIX}/current) model={PREFIX}/models/builtin-1
site=$(echo $environment/lib/python3*/site-packages) kept=/root/kept
unit=firstlight-vllm.service dropins=/etc/systemd/system/firstlight-vllm.service.d
mkdir -p $kept
keep() {{ cp -p "$1" $kept/; }}
restore() {{ mv $kept/"$(basename "$1")" "$1"; }}
# Flips the lowest bit of a byte where it stands: what maps the file goes on with it.
flip() {{ python3 - "$1" "$2" <<'END'
import sys
with open(sys.argv[1], "r+b") as file:
    file.seek(int(sys.argv[2]))
    byte = file.read(1)[0]
    file.seek(-1, 1)
    file.write(bytes([byte ^ 1]))
END
}}
# Where the code of the first function whose name fits begins in a library.
code_of() {{
    at=$(nm -D --defined-only "$1" | awk -v name="$2" '$2 == "T" && $3 ~ name {{ print $1; exit }}')
    text=$(readelf -SW "$1" | sed -n 's/.* \\.text *PROGBITS *\\([0-9a-f]*\\) \\([0-9a-f]*\\) .*/0x\\1 + 0x\\2/p')
    echo $((0x$at - $text))
}}
# The extension module of vLLM that the engine has mapped.
extension() {{ cat /proc/[0-9]*/maps 2>/dev/null | grep -om 1 "/.*/vllm/_C[^/]*\\.so"; }}
"""


@dataclass(frozen=True)
class Fault:
    """One fault. `checks` must all end with `status` at `level` while it exists, and the reason of one of them must contain `names`."""

    name: str
    family: str
    checks: tuple[str, ...]
    make: str
    undo: str
    level: Level = "standard"
    names: str = ""
    status: Status = "fail"
    """A warning if the host's administrator may have made the change on purpose."""


def exposed(name: str, check: str, make: str, undo: str, *, names: str, status: Status = "fail") -> Fault:
    """Return a fault by which others may read, change or reach what serves, or the service may do more."""
    return Fault(name, "exposure", (check,), make, undo, names=names, status=status)


def next_start(name: str, make: str, undo: str, *, names: str, status: Status = "fail") -> Fault:
    """Return a fault that only the next start of the service would meet."""
    return Fault(name, "next start", ("serving.start",), make, undo, names=names, status=status)


def treated(name: str, make: str, undo: str, *, names: str, family: str = "pace") -> Fault:
    """Return a fault: commands for each process of the service (`$pid`), which the kernel treats otherwise then."""
    make, undo = (f"for pid in $(pgrep -u firstlight); do {each}; done" for each in (make, undo))
    return Fault(name, family, ("serving.process",), make, undo, names=names)
