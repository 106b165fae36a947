"""Files of an installation compared with their record, in a folder."""

import ast
import hashlib
import os
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.install.modules import LIBRARY
from verify.checks.installed import files
from verify.records import CheckContext
from verify.serving.service import Service
from verify.tables import table

KEY = "the-key-itself"


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation as `firstlight_state` records it; copies of its key are searched in a folder `around` next to it."""
    monkeypatch.setitem(table("installed")["files"], "copies", [str(tmp_path / "around")])
    prefix = tmp_path / "prefix"
    for name in ("bin", "etc", "models/m", "releases/r", "envs/e/lib/vllm", "cache"):
        (prefix / name).mkdir(parents=True)
    (prefix / "bin/preflight.pyz").write_text("PK")
    (prefix / "etc/service.env").write_text(f"VLLM_API_KEY={KEY}\n")
    (prefix / "etc/service.env").chmod(0o600)
    (prefix / "models/m/model.safetensors").write_bytes(bytes(9))
    (prefix / "releases/r/environment").symlink_to("../../envs/e")
    (prefix / "state.json").write_text("{}")
    rows, sums = [], {"sha256": list[str](), "secrets": list[str]()}
    paths = [
        prefix,
        *(
            path
            for name in ("bin", "etc", "models", "releases")
            for path in ((prefix / name), *(prefix / name).rglob("*"))
        ),
    ]
    for path in paths:
        found = path.lstat()
        times = "- - -" if path.is_dir() and not path.is_symlink() else f"{found.st_size} 1 1"
        rows.append(f"{found.st_mode & 0o7777:o} {found.st_uid} {found.st_gid} {times} {path}\n")
        if path.is_file() and path.suffix != ".safetensors":
            kind = "sha256" if found.st_mode & 4 else "secrets"
            sums[kind].append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path}\n")
    for name, lines in {**sums, "files": rows}.items():
        (prefix / f"state.{name}").write_text("".join(lines))
    (prefix / "etc/units").write_text("written later\n")
    return prefix


def problems(prefix: Path) -> list[str]:
    outcome = files.files(CheckContext(service=Service(prefix, {"unit": "u"}, None)))
    assert outcome.status == ("fail" if outcome.evidence["problems"] else "ok")
    found: list[str] = outcome.evidence["problems"]
    return found


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda prefix: (prefix / "bin/preflight.pyz").write_text("XX"), "{}/bin/preflight.pyz has another content than recorded"),
        (lambda prefix: (prefix / "bin/preflight.pyz").chmod(0o600), "{}/bin/preflight.pyz has mode 0600 of user {uid}, recorded with 0644 of {uid}"),
        (lambda prefix: (prefix / "bin/preflight.pyz").unlink(), "{}/bin/preflight.pyz is gone"),
        (lambda prefix: (prefix / "etc/service.env").write_text("VLLM_API_KEY=the-key-itself\r\n"), "{}/etc/service.env has another content than recorded"),
        (lambda prefix: (prefix / "models/m/model.safetensors").write_bytes(b""), "{}/models/m/model.safetensors has 0 bytes, recorded with 9"),
        (lambda prefix: (prefix / "bin/helper").touch(), "{}/bin/helper is unknown: nobody installed it"),
        (lambda prefix: (prefix / "notes.txt").touch(), "{}/notes.txt is unknown: nobody installed it"),
        (lambda prefix: (prefix / "envs/e/lib/vllm").chmod(0o777), "{}/envs/e/lib/vllm may be changed by others (mode 0777 of user {uid})"),
    ],
    ids=["content", "mode", "gone", "secret", "size", "unknown", "unknown at the top", "exposed"],
)  # fmt: skip
def test_each_kind_of_change_is_named(prefix: Path, change: Callable[[Path], object], text: str) -> None:
    change(prefix)
    assert problems(prefix) == [text.format(prefix, uid=os.getuid())]


def test_a_readable_copy_of_the_key_is_named_wherever_it_lies(prefix: Path) -> None:
    outside = prefix.parent / "around"
    outside.mkdir()
    for copy in (outside / "service.env", prefix / "logs/service.env"):
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes((prefix / "etc/service.env").read_bytes())
        copy.chmod(0o644)
        assert problems(prefix) == [f"{copy} has the API key, and everybody may read it"]
        copy.chmod(0o600)
        assert problems(prefix) == []


def test_files_that_a_later_step_writes_are_known(prefix: Path) -> None:
    (prefix / "etc/set-aside/etc").mkdir(parents=True)
    (prefix / "etc/set-aside/etc/x.conf").touch()
    (prefix / "models/m/reference-1.json").touch()
    (prefix / "quarantine.json").touch()
    assert problems(prefix) == []


def test_without_a_record_nothing_can_be_told(prefix: Path) -> None:
    (prefix / "state.files").unlink()
    assert files.files(CheckContext(service=Service(prefix, {"unit": "u"}, None))).status == "error"


def test_what_the_playbooks_write_later_is_known_to_the_checks() -> None:
    text = (LIBRARY / "firstlight_state.py").read_text(encoding="utf-8")
    written = ast.literal_eval(text.partition("\nLATER = ")[2].partition("\n")[0])
    known = [Path(path).name for path in table("installed")["files"]["later"]]
    assert [name for name in written if not any(fnmatch(one, name) for one in known)] == []
