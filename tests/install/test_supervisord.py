"""supervisord is started, restarted and stopped; its programs are replaced by scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.install.modules import run_module

pytestmark = pytest.mark.slow

CONTROL = """\
#!/bin/sh
shift 2
case "$1" in
    pid) cat {folder}/run/pid 2>/dev/null || echo "unix:///x refused connection"; exit 0 ;;
    shutdown) kill "$(cat {folder}/run/pid)"; rm {folder}/run/pid ;;
    status) echo "$2  $(cat {folder}/run/status)  pid 1" ;;
esac
"""
DAEMON = """\
#!/bin/sh
[ -e {folder}/broken ] && {{ echo "Error: .ini file has no section"; exit 2; }}
echo $$ >{folder}/run/pid
exec sleep 60
"""


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    for name in ("current/bin", "run", "logs", "etc", "home"):
        (tmp_path / name).mkdir(parents=True)
    for name, text in (("supervisorctl", CONTROL), ("supervisord", DAEMON)):
        path = tmp_path / "current/bin" / name
        path.write_text(text.format(folder=tmp_path))
        path.chmod(0o755)
    (tmp_path / "run/status").write_text("RUNNING")
    return tmp_path


def supervise(prefix: Path, state: str, **options: Any) -> dict[str, Any]:
    return run_module("firstlight_supervisord", prefix=str(prefix), state=state, timeout_s=5, **options)


def test_supervisord_is_started_once_and_stopped_once(prefix: Path) -> None:
    assert supervise(prefix, "started", check=True)["actions"] == ["started"]
    assert not (prefix / "run/pid").exists()
    assert supervise(prefix, "started")["actions"] == ["started"]
    assert supervise(prefix, "started")["changed"] is False
    pid = (prefix / "run/pid").read_text().strip()
    assert supervise(prefix, "restarted", check=True)["actions"] == [f"stopped {pid}", "started"]
    assert supervise(prefix, "stopped")["actions"] == [f"stopped {pid}"]
    assert supervise(prefix, "stopped")["changed"] is False


def test_a_stopped_program_is_started_again(prefix: Path) -> None:
    supervise(prefix, "started")
    pid = (prefix / "run/pid").read_text().strip()
    (prefix / "run/status").write_text("FATAL")
    assert supervise(prefix, "started")["actions"] == [f"stopped {pid}", "started"]
    supervise(prefix, "stopped")


def test_a_program_that_does_not_start_is_reported_with_its_last_lines(prefix: Path) -> None:
    (prefix / "broken").touch()
    result = supervise(prefix, "started")
    assert result["msg"] == "supervisord did not start within 5 s: Error: .ini file has no section"
    assert result["hint"] == f"try it on the host: {prefix}/current/bin/supervisord -n -c {prefix}/etc/supervisord.conf"
