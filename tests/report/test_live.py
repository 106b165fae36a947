"""Plain lines for logs, and a live table on a real terminal, which is restored afterwards."""

import contextlib
import io
import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rich.table import Table

from provision.core.models.invocation import Invocation
from provision.core.models.records import PhaseResult
from provision.report.live import LiveProgress, PlainProgress, is_live, open_progress
from tests.report.sample import Terminal, result

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("stream", "environment", "live"),
    [
        (Terminal(), {"TERM": "xterm"}, True),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": "1"}, True),
        (Terminal(), {"TERM": "dumb"}, False),
        (Terminal(), {}, False),
        (Terminal(), {"TERM": "xterm", "CI": "true"}, False),
        (io.StringIO(), {"TERM": "xterm"}, False),
    ],
)
def test_view_that_fits(stream: io.StringIO, environment: dict[str, str], live: bool) -> None:
    assert is_live(stream, environment) is live
    assert isinstance(open_progress(["a"], stream=stream, environment=environment), PlainProgress) is not live


def plain(*results: PhaseResult) -> str:
    out = io.StringIO()
    with PlainProgress(out) as progress:
        for entry in results:
            progress.phase(entry.host, entry.phase)
            progress.finish(entry.host, entry)
    return re.sub(r"^\[ *[0-9.]+ s\] ", "", out.getvalue(), flags=re.MULTILINE)


def test_a_phase_is_called_what_it_does() -> None:
    out = io.StringIO()
    with open_progress(["a"], titles={"install": "uninstall"}, stream=out, environment={}) as view:
        view.phase("a", "install")
        view.finish("a", result("a", "install"))
    assert [line.split("] ")[1] for line in out.getvalue().splitlines()] == [
        "uninstall",
        "  a: uninstall ok, changed (38 s)",
    ]


def test_plain_lines_name_a_phase_once() -> None:
    assert plain(result("a", "probe"), result("b", "probe"), result("a", "install")).splitlines() == [
        "probe",
        "  a: probe ok (0.4 s)",
        "  b: probe ok (0.4 s)",
        "install",
        "  a: install ok, changed (38 s)",
    ]


def test_details_are_for_those_who_ask() -> None:
    for verbose in (False, True):
        out = Terminal()
        with open_progress(
            ["a"], verbose=verbose, stream=out, environment={"TERM": "xterm"} if verbose else {}
        ) as view:
            view.detail("a", "INFO loading weights")
        assert ("a: INFO loading weights" in out.getvalue()) is verbose


def test_plain_failure_has_text_and_hint_and_no_secret() -> None:
    output = plain(result("a", "install", "failed", text="HF_TOKEN=abcdefgh1234 \x1b[31mwrong", hint="see the log"))
    assert "a: install failed: HF_TOKEN=[hidden] wrong" in output
    assert "hint: see the log" in output


def test_a_command_in_a_hint_is_for_the_hosts_of_the_run() -> None:
    out = io.StringIO()
    with open_progress(["a"], stream=out, environment={}) as view:
        view.complete = Invocation(inventory="site").complete
        view.finish("a", result("a", "serve", "failed", hint="see ./firstlight status"))
        view.lines(["    ? environment  ./firstlight stage"])
    assert "hint: see ./firstlight status -i site" in out.getvalue()
    assert "? environment  ./firstlight stage -i site" in out.getvalue()


def write_many(progress: PlainProgress, name: str) -> None:
    for _ in range(200):
        progress.note(name, "x" * 50)


def test_plain_lines_of_many_threads_stay_complete() -> None:
    out = io.StringIO()
    with PlainProgress(out) as progress:
        each = [threading.Thread(target=write_many, args=(progress, f"h{number}")) for number in range(8)]
        for thread in each:
            thread.start()
        for thread in each:
            thread.join()
    lines = out.getvalue().splitlines()
    assert len(lines) == 1600
    assert all(re.fullmatch(r"\[ *[0-9.]+ s\]   h\d: x{50}", line) for line in lines)


RUN_PROGRAM = """
import select, signal, sys
from provision.core.models.records import PhaseResult
from provision.report.live import open_progress

signal.alarm(600)  # which ends it if nothing else does
hosts = [f"host-{n}" for n in range(60)]
with open_progress(hosts) as progress:
    for host in hosts[:5]:
        progress.phase(host, "stage")
        progress.bytes(host, 3 << 20, 10 << 20)
    progress.finish("host-0", PhaseResult(host="host-0", phase="stage", status="failed", text="no space left"))
    if "slow" in sys.argv:
        select.select([sys.stdin], [], [])
"""


def on_terminal(*arguments: str, **environment: str) -> tuple[int, bytes]:
    """Execute a run on a new terminal, which continues once the table is shown; return its exit code and all that the terminal received."""
    controller, terminal = pty.openpty()
    variables = {
        **os.environ,
        "TERM": "xterm-256color",
        "PYTHONPATH": str(ROOT),
        "LINES": "24",
        "COLUMNS": "100",
        **environment,
    }
    variables.pop("CI", None)
    process = subprocess.Popen(
        [sys.executable, "-c", RUN_PROGRAM, *arguments],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=variables,
        start_new_session=True,
    )
    os.close(terminal)
    got, is_told = b"", False
    with contextlib.suppress(OSError):  # the other side is closed
        while True:
            got += os.read(controller, 65536)
            if not is_told and b"no space left" in got:
                is_told = True
                os.write(controller, b"\n")
    code = process.wait()
    os.close(controller)
    return code, got


def test_live_table_shows_work_and_leaves_no_trace() -> None:
    code, got = on_terminal("slow")
    assert code == 0
    assert b"no space left" in got
    assert b"3.0 MiB of 10.0 MiB" in got
    assert b"more hosts" in got
    assert got.rfind(b"\x1b[?25h") > got.rfind(b"\x1b[?25l") >= 0, "the cursor is shown again"


def test_columns_keep_their_width_on_a_narrow_terminal() -> None:
    _, got = on_terminal("slow", COLUMNS="80")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", got.decode()).replace("\r", "")
    [row, *_] = [line for line in shown.splitlines() if line.startswith("host-0 ")]
    assert re.match(r"host-0 +3/6 stage +failed +\S+ s +no space left", row)


def test_a_long_line_of_a_plan_goes_on_below_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    out = Terminal()
    with LiveProgress(["a"], out, {}) as view:
        view.lines(["    + environment  vLLM 0.32.0, torch 2.13.0, about 2.2 GiB in /opt/firstlight/envs"])
    assert out.getvalue().splitlines() == [
        "    + environment  vLLM 0.32.0, torch 2.13.0, about 2.2 GiB",
        "        in /opt/firstlight/envs",
    ]


def test_a_row_shows_bytes_until_they_are_sent_and_what_follows_a_finished_phase() -> None:
    view = LiveProgress(["a"], Terminal(), {"serve": "serve"})
    view.phase("a", "serve")
    view.bytes("a", 1 << 20, 2 << 20)
    view.current("a", "Copy files")
    assert cells(view) == ["a", "1/1 serve", "running", "1.0 MiB of 2.0 MiB Copy files"]
    view.bytes("a", 2 << 20, 2 << 20)
    assert cells(view)[-1] == "Copy files"
    view.finish("a", result("a", "serve"))
    assert cells(view)[2] == "changed"
    view.phase("a", "serve")
    view.current("a", "Start the units")
    assert cells(view) == ["a", "1/1 serve", "running", "Start the units"]


def cells(view: LiveProgress) -> list[str]:
    """Return the cells of the only row without its time."""
    table = view._table()
    assert isinstance(table, Table)
    [row] = zip(*(column.cells for column in table.columns), strict=True)
    return [str(cell) for at, cell in enumerate(row) if at != 3]


def test_no_colour_is_used_if_it_is_disabled() -> None:
    _, coloured = on_terminal("slow")
    _, plainly = on_terminal("slow", NO_COLOR="1")
    assert re.search(rb"\x1b\[(0;)?31m", coloured)
    assert not re.search(rb"\x1b\[[0-9;]*3[0-7]m", plainly)


def test_a_quick_run_draws_no_table() -> None:
    code, got = on_terminal()
    assert (code, got) == (0, b"")


def test_the_hint_of_hosts_that_are_not_reached_comes_once() -> None:
    stream = io.StringIO()
    with PlainProgress(stream) as progress:
        for name in ("a", "b"):
            hint = f"try it by hand: ssh {name} true"
            progress.finish(name, result(name, "probe", "unreachable", text="no answer", hint=hint))
        for name in ("c", "d"):
            progress.finish(name, result(name, "install", "failed", text="full", hint=f"make room: du {name}"))
    hints = re.findall(r"hint: (.*)", stream.getvalue())
    assert hints == ["try it by hand: ssh a true", "make room: du c", "make room: du d"]
