"""The time limits of the real script: a tool that hangs loses what it was asked, and nothing else."""

import os
import pwd
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from tests.probe.here import AS_ROOT, program, run, traces, with_first
from tests.waiting import OUTLASTS_S, wait_until

pytestmark = pytest.mark.slow


def test_a_hanging_tool_loses_only_its_own_sections_and_what_it_has_started_is_ended(tmp_path: Path) -> None:
    program(
        tmp_path,
        "nvidia-smi",
        f"trap '' TERM\necho $$ >>{tmp_path}/pids\nsleep {OUTLASTS_S} &\necho $! >>{tmp_path}/pids\nwait; wait; exec sleep {OUTLASTS_S}",
    )
    done = run(environment=with_first(tmp_path), limit_s=3)
    facts = done.facts
    assert done.rc == 0
    assert done.stdout.rstrip().endswith(" over ALL")
    assert facts.unknown["nvidia"] == "no answer from nvidia-smi within 3 s"
    assert facts.os.id is not None
    assert facts.ports is not None
    assert facts.installed is not None
    pids = (tmp_path / "pids").read_text(encoding="ascii").split()
    # The kernel ends what was killed when it has the time.
    wait_until(lambda: not any(Path("/proc", pid, "exe").exists() for pid in pids), "what it has started runs on")


def test_a_disk_that_does_not_answer_hides_no_other(tmp_path: Path) -> None:
    df = shutil.which("df")
    program(
        tmp_path,
        "df",
        f'for path; do [ "$path" != /dev/shm ] || exec sleep 300; done; echo "$#" >>"$0.calls"; {df} "$@"',
    )
    facts = run(environment=with_first(tmp_path), limit_s=3).facts
    totals = {disk.path: disk.total for disk in facts.disks}
    assert totals["/"] == shutil.disk_usage("/").total
    assert totals["/var/tmp"] is not None
    assert totals["/dev/shm"] is None
    assert facts.unknown["disks"] == "no answer from df within 3 s"
    # One call for each that answers; the one for all of them was ended.
    assert set((tmp_path / "df.calls").read_text(encoding="ascii").split()) == {"2"}


@pytest.mark.parametrize(("limit_s", "budget_s"), [(300, 1), (None, 5)], ids=["a limit in vain", "no timeout here"])
def test_a_process_that_cannot_be_ended_is_abandoned(tmp_path: Path, limit_s: int | None, budget_s: int) -> None:
    # A process in uninterruptible sleep ignores even SIGKILL; here the limit never takes effect.
    program(tmp_path, "nvidia-smi", f"echo $$ >>{tmp_path}/pids\nexec sleep 300")
    if limit_s is None:
        program(tmp_path, "timeout", "exit 127")
    done = run(environment=with_first(tmp_path), limit_s=limit_s or 3, budget_s=budget_s)
    # The script returned although nvidia-smi did not, so nvidia-smi holds no descriptor of the connection.
    assert done.stdout.rstrip().endswith(" over BUDGET")
    assert done.facts.unknown["nvidia"] == "the probe's time was over before this was read"
    assert done.facts.os.id is not None
    assert traces(done.stdout) == []
    for pid in (tmp_path / "pids").read_text(encoding="ascii").split():
        os.kill(int(pid), signal.SIGKILL)


@AS_ROOT
def test_a_slow_directory_service_costs_only_the_names() -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        program(Path(name), "id", '[ "$1" = -u ] || exec sleep 300\nexec /usr/bin/id -u')
        facts = run("su", "-s", "/bin/sh", "nobody", "-c", f"PATH={name}:$PATH sh -s", limit_s=3).facts
    assert facts.user.uid == pwd.getpwnam("nobody").pw_uid
    assert facts.user.name is None
    assert facts.os.id is not None
    assert facts.installed is not None
