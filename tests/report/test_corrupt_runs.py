"""Run folders with damaged or foreign files: every command on runs ends normally, and other runs still count."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provision.core.errors import Exit, FirstlightError
from provision.core.models.records import Finding
from provision.core.run_folder import RunFolder
from provision.pipeline import diagnosis
from provision.report import page, summarise, write
from provision.report.difference import compare_runs
from provision.report.difference.text import render
from provision.report.history import bundle, retention, runs, show
from provision.report.history.runs import names
from tests.report.sample import NEWER, OLDER, ran, result
from tests.strange import JSON, changed, paths

pytestmark = pytest.mark.slow


def make(logs: Path) -> Path:
    """Two finished runs; the earlier one has every kind of file."""
    for name in (OLDER, NEWER):
        folder = ran(logs / name)
        folder.run.write(
            "run.json", {"run": name, "command": "provision", "started_at": "2026-11-19T08:00:00.000Z", "pid": 1}
        )
        folder.run.event("phase", phase="probe", seconds=0.5)
        finding = Finding(cause="disk-full", confidence=0.9, evidence=("e",), fix=("r",))
        folder.run.write("findings/a.json", [finding.model_dump()])
        folder.run.write("host_comparison.json", {"checks": []})
        folder.run.write(
            "phases.json", {"a": {"install": result("a", "install", "failed", text="no").model_dump(mode="json")}}
        )
        write(folder.run, summarise(folder.run))
    (logs / "latest").symlink_to(NEWER)
    return logs


COMMANDS: dict[str, Callable[[Path], Any]] = {
    "list": runs.list_text,
    "list --json": lambda logs: json.loads(runs.list_json(logs)),
    "show": lambda logs: show.summary_text(logs, OLDER),
    "show --json": lambda logs: json.loads(show.summary_text(logs, OLDER, as_json=True)),
    "diff": lambda logs: render(compare_runs(logs)),
    "diff A B": lambda logs: render(compare_runs(logs, OLDER, NEWER)),
    "open": lambda logs: page.write_and_open(logs, OLDER, browser=False),
    "bundle": lambda logs: bundle.bundle(logs / OLDER, logs / "a.tar.gz"),
    "the end of a failing run": lambda logs: summarise(RunFolder(logs / OLDER)).model_dump_json(),
    "doctor --limit": lambda logs: diagnosis.earlier(logs, "a"),
    "prune": lambda logs: retention.render(retention.prune(logs, keep=1)),
}


def use(logs: Path, damage: str = "") -> None:
    """Run every command as a user does. A failure names the damage."""
    for name, command in COMMANDS.items():
        if OLDER not in names(logs):
            return  # without run.json it is no run
        error = refusal(command, logs)
        assert error is None or (error.hint and error.exit_code in set(Exit)), f"{name} {damage}"


def refusal(command: Callable[[Path], Any], logs: Path) -> FirstlightError | None:
    """Return the expected error that a command ends with; None if there is none."""
    try:
        command(logs)
    except FirstlightError as error:
        return error
    return None


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("sound") / "logs")


@contextlib.contextmanager
def copied(sound: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield shutil.copytree(sound, Path(folder) / "logs", symlinks=True)


FILES = (
    "run.json", "events.jsonl", "phases.json", "inventory.json", "plan.json", "facts/a.json", "stage/a.json", "verify/a.json",
    "serve/a.json", "compare/a.json", "findings/a.json", "host_comparison.json", "summary.json", "summary.txt",
)  # fmt: skip
CONTENTS = {
    "no UTF-8": b'{"kind": "\xff\xfe"}\n',
    "nested": b"[" * 100_000 + b"\n",
    "a number": b"5\n",
    "a list": b'[5, null, [1], "x"]\n',
    "hosts that are numbers": b'{"hosts": [5, {"name": 5, "state": []}]}\n',
    "hosts of other kinds": b'{"a": 5, "b": {"install": {"status": "failed"}}}\n',
    "NaN": b'{"hosts": NaN, "seconds": Infinity, "pid": 1e400}\n',
    "half a pair": b'{"hosts": "\\ud800", "verdict": "\\ud800", "command": "\\ud800"}\n',
}


@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_ends_no_command(sound: Path, file: str) -> None:
    for kind, content in CONTENTS.items():
        with copied(sound) as logs:
            (logs / OLDER / file).parent.mkdir(exist_ok=True)
            (logs / OLDER / file).write_bytes(content)
            use(logs, kind)


@pytest.mark.parametrize("file", FILES)
def test_a_folder_in_the_place_of_a_file_ends_no_command(sound: Path, file: str) -> None:
    with copied(sound) as logs:
        (logs / OLDER / file).unlink(missing_ok=True)
        (logs / OLDER / file).mkdir(parents=True)
        use(logs)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), file=st.sampled_from([name for name in FILES if name.endswith(".json")]), new=JSON)
def test_any_value_in_the_place_of_another_ends_no_command(sound: Path, data: Any, file: str, new: Any) -> None:
    with copied(sound) as logs:
        path = logs / OLDER / file
        if not path.exists():
            return
        document = json.loads(path.read_bytes())
        path.write_text(json.dumps(changed(document, data.draw(st.sampled_from(list(paths(document)))), new)))
        use(logs)


LINES = st.one_of(JSON.map(lambda value: json.dumps(value).encode()), st.binary(max_size=60))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(LINES, min_size=1, max_size=3),
    file=st.sampled_from(["events.jsonl", "changes.jsonl", "install/tasks.jsonl"]),
)
def test_any_line_of_a_record_ends_no_command(sound: Path, lines: list[bytes], file: str) -> None:
    with copied(sound) as logs:
        path = logs / OLDER / file
        path.parent.mkdir(exist_ok=True)
        with path.open("ab") as record:
            record.write(b"\n".join(lines))
        use(logs)
