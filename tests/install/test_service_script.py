"""What the verification of role `service` says, with a stand-in for systemctl."""

import os
from pathlib import Path

import pytest

from tests.install.scripts import run_sh


@pytest.mark.parametrize(("supervisor", "scope"), [("systemd", "--system"), ("systemd-user", "--user")])
def test_a_unit_that_does_not_run_is_named_with_the_command_for_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, supervisor: str, scope: str
) -> None:
    (tmp_path / "current/bin").mkdir(parents=True)
    for name, text in (("current/bin/python", "exit 0"), ("systemctl", "echo failed")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    done = run_sh(
        "service/files/verify.sh", prefix=str(tmp_path), supervisor=supervisor, name="firstlight-vllm.service"
    )
    assert done.returncode == 1
    assert f"firstlight-hint: journalctl {scope} -u firstlight-vllm.service says why" in done.stderr
