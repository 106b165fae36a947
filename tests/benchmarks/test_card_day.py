"""A card's day needs a Python with torch, and nothing else: what it takes of the product imports with the standard library alone."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACK = """
import sys
sys.path.insert(0, sys.argv[1])
import benchmarks.card.day
from provision.phases.verify.tool import zipapp
print(len(zipapp()))
"""


def test_the_checks_are_packed_without_any_package() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", PACK, str(ROOT)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100_000
