"""Rotated, compressed logs."""

import gzip
import io
import json
import random
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
    code = cli.run([str(path)], top=1, as_json=True)
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


def test_zstandard_is_refused_with_the_command_to_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "server.log.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd rest")
    assert cli.run([str(path)], top=1, as_json=True) == cli.USAGE
    printed, command = capsys.readouterr(), "zstd -dc FILE | ./firstlight doctor -"
    assert command in printed.err
    assert command in json.loads(printed.out)["error"]["text"]


def test_gzip_on_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(gzip.compress(LOG)))))
    with open_log("-") as stream:
        assert stream.read(len(LOG) + 1) == LOG
