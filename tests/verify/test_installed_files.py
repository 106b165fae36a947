"""Comparison of an environment's files with those that were installed: which files are compared when."""

import fcntl
import json
import mmap
import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from verify.binaries import manifest
from verify.binaries.manifest import STAMPS, load_stamps
from verify.checks.libraries import files
from verify.records import CheckContext, CheckResult, Level


class Environment:
    """A prefix with one environment: a module, a library that no process has mapped, and byte code of the module."""

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        self.home = prefix / "envs/ab12"
        self.module = self.home / "lib/lamp.py"
        self.module.parent.mkdir(parents=True)
        self.module.write_text("LIGHT = 1\n")
        self.library = self.home / "lib/lamp.so"
        self.library.write_bytes(b"x" * 5000)
        self.compiled = Path(subprocess.check_output([sys.executable, "-c", COMPILE, self.module], text=True).strip())
        self.link = self.home / "lib/alias"
        self.link.symlink_to("lamp.py")
        self.list("manifest.txt", self.module, self.library, self.link)
        self.list("bytecode.txt", self.compiled)

    def list(self, name: str, *paths: Path) -> None:
        contents = {path: str(path.readlink()).encode() if path.is_symlink() else path.read_bytes() for path in paths}
        (self.home / name).write_text(
            "".join(
                f"{zlib.crc32(content):08x} {len(content)} {path.relative_to(self.home)}\n"
                for path, content in contents.items()
            )
        )

    def check(self, level: Level = "standard") -> CheckResult:
        return files.files(CheckContext(level=level, prefix=self.prefix))


COMPILE = "import py_compile, sys; print(py_compile.compile(sys.argv[1]))"


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    made = Environment(tmp_path)
    monkeypatch.setattr(sys, "prefix", str(made.home))
    return made


def flip(path: Path, *, keep_times: bool = False) -> None:
    """Change one bit in place, as a faulty disk or a person does."""
    before = path.stat()
    with path.open("r+b") as file:
        first = file.read(1)
        file.seek(0)
        file.write(bytes([first[0] ^ 1]))
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("keep_times", [False, True])
def test_a_changed_bit_with_the_old_time_is_found_at_standard(environment: Environment, *, keep_times: bool) -> None:
    environment.check()
    flip(environment.library, keep_times=keep_times)
    outcome = environment.check()
    assert (outcome.status, outcome.reason) == ("fail", f"{environment.library}: its content is not the recorded one")
    assert environment.check().status == "fail", "a wrong file is read each time"


def test_unchanged_files_are_read_only_at_full(environment: Environment) -> None:
    environment.check()
    assert read(environment.check()) == 0
    assert read(environment.check("full")) == 4
    kept = json.loads((environment.prefix / "verify/files.json").read_text())
    kept["files"]["lib/lamp.so"] = None
    (environment.prefix / "verify/files.json").write_text(json.dumps(kept))
    assert read(environment.check()) == 1
    assert read(environment.check()) == 0


def test_records_of_another_environment_are_not_used(environment: Environment) -> None:
    environment.check()
    assert load_stamps(environment.prefix, environment.home.with_name("cd34"), STAMPS) == {}


def test_damaged_records_are_read_anew(environment: Environment) -> None:
    environment.check()
    for damaged in ({}, {"files": None}, {"files": {"lib/lamp.so": 1}}):
        text = json.dumps({"environment": environment.home.name, **damaged})
        (environment.prefix / "verify/files.json").write_text(text)
        assert load_stamps(environment.prefix, environment.home, STAMPS) == {}


def test_a_standard_run_reads_a_limited_amount_of_unread_files(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "UNSEEN_BYTES", 5000)
    counts = [read(environment.check()) for _ in range(3)]
    assert counts == [3, 1, 0]


def test_a_file_that_a_process_has_mapped_is_read_each_time(environment: Environment) -> None:
    environment.check()
    with environment.library.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ):
        assert read(environment.check()) == 1


def read(outcome: CheckResult) -> int:
    return int(outcome.evidence["read"])


def test_wrong_sizes_and_missing_files_are_named(environment: Environment) -> None:
    environment.library.write_bytes(b"1")
    assert environment.check().reason == f"{environment.library}: 1 bytes, recorded 5000"
    environment.library.unlink()
    assert environment.check().reason == f"{environment.library}: No such file or directory"


def test_a_link_that_points_elsewhere_is_named(environment: Environment) -> None:
    environment.link.unlink()
    environment.link.symlink_to("other")
    assert "alias" in environment.check().reason


def rewritten(environment: Environment) -> None:
    os.utime(environment.module, (0, 0))
    subprocess.run([sys.executable, "-c", COMPILE, environment.module], check=True, capture_output=True)


def poisoned(environment: Environment) -> None:
    other = environment.prefix / "other.py"
    other.write_text("LIGHT = 2\n")
    made = subprocess.check_output([sys.executable, "-c", COMPILE, other], text=True).strip()
    head = environment.compiled.read_bytes()[: manifest.HEADER_BYTES]
    environment.compiled.write_bytes(head + Path(made).read_bytes()[manifest.HEADER_BYTES :])


@pytest.mark.parametrize(
    ("change", "status"),
    [(rewritten, "ok"), (lambda environment: environment.compiled.unlink(), "ok"), (poisoned, "fail")],
)
def test_byte_code_may_be_compiled_again_but_must_match_its_source(
    environment: Environment, change: Callable[[Environment], None], status: str
) -> None:
    environment.check()
    change(environment)
    assert environment.check().status == status
    assert environment.check("full").status == status


@pytest.fixture
def compiling(environment: Environment) -> Iterator[None]:
    with (environment.home / manifest.COMPILING).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.mark.usefixtures("compiling")
def test_byte_code_during_compilation_is_no_finding(environment: Environment) -> None:
    (environment.home / "bytecode.txt").unlink()
    outcome = environment.check()
    assert (outcome.status, "is being compiled" in outcome.reason) == ("ok", True)


def test_byte_code_with_an_unfinished_list_is_not_accepted(environment: Environment) -> None:
    (environment.home / "bytecode.txt").unlink()
    outcome = environment.check()
    assert (outcome.status, outcome.remedy) == ("error", "compile it again: ./firstlight provision")
    (environment.home / manifest.COMPILING).touch()
    assert environment.check().status == "error"
