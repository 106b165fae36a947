"""supervisord is started, restarted and stopped; its programs are replaced by scripts."""

import subprocess
from pathlib import Path

import pytest

from tests.install.scripts import run_sh

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


def supervise(prefix: Path, state: str, check: str = "0") -> subprocess.CompletedProcess[str]:
    variables = {"prefix": str(prefix), "state": state, "program": "firstlight-vllm", "timeout_s": "5", "check": check}
    return run_sh("service/files/supervisor.sh", **variables)


def steps(prefix: Path, state: str, check: str = "0") -> list[str]:
    """What the script did, in order."""
    done = supervise(prefix, state, check)
    assert done.returncode == 0, done
    return [line.removeprefix("firstlight-changed: ") for line in done.stdout.splitlines()]


def test_supervisord_is_started_once_and_stopped_once(prefix: Path) -> None:
    assert steps(prefix, "started", check="1") == ["started"]
    assert not (prefix / "run/pid").exists()
    assert steps(prefix, "started") == ["started"]
    assert steps(prefix, "started") == []
    pid = (prefix / "run/pid").read_text().strip()
    assert steps(prefix, "restarted", check="1") == [f"stopped {pid}", "started"]
    assert steps(prefix, "stopped") == [f"stopped {pid}"]
    assert steps(prefix, "stopped") == []


def test_a_stopped_program_is_started_again(prefix: Path) -> None:
    steps(prefix, "started")
    pid = (prefix / "run/pid").read_text().strip()
    (prefix / "run/status").write_text("FATAL")
    assert steps(prefix, "started") == [f"stopped {pid}", "started"]
    steps(prefix, "stopped")


def test_a_program_that_does_not_start_is_reported_with_its_last_lines(prefix: Path) -> None:
    (prefix / "broken").touch()
    error, hint = supervise(prefix, "started").stdout.splitlines()[1:]
    assert error == "firstlight-error: supervisord did not start within 5 s: Error: .ini file has no section"
    how = f"{prefix}/current/bin/supervisord -n -c {prefix}/etc/supervisord.conf"
    assert hint == f"firstlight-hint: try it on the host: {how}"
