"""Rotated, compressed logs, and huge logs."""

from __future__ import annotations

import gzip
import io
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from verify.doctor import cli
from verify.doctor.text_decoding import open_log

LOG = (
    b"INFO starting\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB\n"
    * 50
)


def diagnosed(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    code = cli.run([str(path)], facts=None, top=1, as_json=True)
    [document] = json.loads(capsys.readouterr().out)
    return code, [finding["cause"] for finding in document["findings"]]


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "server.log"
    path.write_bytes(LOG)
    return path


def test_gzip_is_read_as_its_text(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = plain.with_name("server.log.1.gz")
    packed.write_bytes(gzip.compress(LOG))
    assert diagnosed(packed, capsys) == diagnosed(plain, capsys)
    assert diagnosed(packed, capsys)[1]


def test_truncated_gzip_is_read_as_far_as_possible(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = plain.with_name("server.log.1.gz")
    # Digits that hardly compress: the cut falls among them.
    digits = random.Random(1).randbytes(1 << 16).hex()
    packed.write_bytes(gzip.compress(LOG + digits.encode())[:-100])
    assert diagnosed(packed, capsys) == diagnosed(plain, capsys)


def test_a_text_that_only_begins_like_gzip_causes_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "odd"
    path.write_bytes(b"\x1f\x8b" + bytes(range(100)))
    assert diagnosed(path, capsys) == (cli.READ, [])


@pytest.mark.skipif(shutil.which("zstd") is None, reason="zstd is not installed on this machine")
def test_zstandard_is_read_as_its_text(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subprocess.run(["zstd", "-q", str(plain), "-o", f"{plain}.zst"], check=True)
    assert diagnosed(Path(f"{plain}.zst"), capsys) == diagnosed(plain, capsys)


def test_zstandard_without_its_program_names_the_command_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "server.log.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd rest")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.run([str(path)], facts=None, top=1, as_json=False) == cli.USAGE
    assert "zstd -dc FILE | ./firstlight doctor -" in capsys.readouterr().err


def test_gzip_on_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(gzip.compress(LOG)))))
    with open_log("-") as stream:
        assert stream.read(len(LOG) + 1) == LOG


def test_a_huge_log_is_reported_to_take_a_while(
    plain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.run([str(plain)], facts=None, top=1, as_json=False)
    assert "note:" not in capsys.readouterr().err
    monkeypatch.setattr(cli, "HUGE_BYTES", 1000)
    cli.run([str(plain)], facts=None, top=1, as_json=False)
    assert f"tail -c 100M {plain} | ./firstlight doctor -" in capsys.readouterr().err


@pytest.mark.parametrize("facts", ["[" * 100_000, "{", "5"])
def test_invalid_facts_are_an_error_in_json_too(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], facts: str
) -> None:
    (tmp_path / "facts.json").write_text(facts)
    assert cli.run([str(plain)], facts=str(tmp_path / "facts.json"), top=1, as_json=True) == cli.USAGE
    assert "cannot read facts from" in json.loads(capsys.readouterr().out)["error"]["text"]
