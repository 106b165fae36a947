"""No tracked file contains hosts of package registries or paths of a machine; the locks agree."""

import re
import subprocess
from pathlib import Path

import pytest

from provision.core.requirements_file import read_lock

ROOT = Path(__file__).resolve().parents[2]

# in pieces, so that this file holds none of them itself
REGISTRIES = re.compile(
    "|".join(("py" + r"pi\.org", "python" + r"hosted\.org", "deb" + r"ian\.org", "npm" + r"js\.(?:org|com)"))
)
_FOLDERS = (
    "wo" + "rk",
    "fa" + "rm",
    "ro" + r"ot/\.pyenv",
    "tm" + "p/(?:bash|brief|trial)",
)
MACHINE = re.compile(rf"(?<![\w.~-])/(?:{'|'.join(_FOLDERS)})/")


def tracked() -> list[Path]:
    """Return the files that git tracks; in a checkout without git, those that it would track."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        names = listed.stdout.decode().split("\0")
        return [ROOT / name for name in names if name and (ROOT / name).is_file()]
    return [
        path
        for path in ROOT.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
    ]


def hits(pattern: re.Pattern[str]) -> list[str]:
    found = []
    for path in tracked():
        text = path.read_bytes().decode("utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    return found


@pytest.mark.parametrize("pattern", [REGISTRIES, MACHINE], ids=["registries", "paths"])
def test_no_registry_and_no_path_of_a_machine_is_named(pattern: re.Pattern[str]) -> None:
    found = hits(pattern)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (REGISTRIES, "https://py" + "pi.org/simple"),
        (REGISTRIES, "http://deb.deb" + "ian.org/x"),
        (MACHINE, "see /wo" + "rk/main/x"),
        (MACHINE, "'/ro" + "ot/.pyenv/shims'"),
    ],
)
def test_the_patterns_match_registries_and_paths(pattern: re.Pattern[str], text: str) -> None:
    assert pattern.search(text)


@pytest.mark.parametrize("text", ["a framework/x", "./work/x", "~/work/x", "/home/ops/x", "/tmp/x"])
def test_the_patterns_match_nothing_else(text: str) -> None:
    assert not MACHINE.search(text)


def lock(name: str) -> str:
    return (ROOT / "requirements" / name).read_text(encoding="utf-8")


def test_the_development_lock_contains_the_other_lock() -> None:
    """One .venv serves both: what runs the tests must be what runs the product."""
    small, large = ({(pin.name, pin.version) for pin in read_lock(lock(name))} for name in ("run.txt", "dev.txt"))
    names = {name for name, _ in small}
    assert {(name, version) for name, version in large if name in names} == small


@pytest.mark.parametrize("name", ["run.txt", "dev.txt"])
def test_every_pin_has_hashes(name: str) -> None:
    pins = list(read_lock(lock(name)))
    assert len(pins) == len(re.findall(r"^[a-z0-9._-]+==", lock(name), re.MULTILINE)) > 0
    assert all(pin.hashes for pin in pins)
