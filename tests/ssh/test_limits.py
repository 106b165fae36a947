"""A host with endless output: reading is limited in bytes and in time, and the command is ended."""

import subprocess
import time
from pathlib import Path

import pytest

from provision.core.errors import RemoteCommandError
from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings
from provision.fleet.ssh import open_session
from provision.fleet.ssh.session import RUN_BYTES
from provision.phases.probe.reading import probe


@pytest.fixture
def here() -> Host:
    return Host(name="here", connection=Connection(kind="local"), settings=Settings())


@pytest.mark.parametrize("where", ["", " >&2"])
def test_endless_output_is_truncated(here: Host, where: str) -> None:
    session = open_session(here)
    with pytest.raises(RemoteCommandError, match="printed more than 8 MiB and was broken off"):
        session.run(f"echo $$; exec yes firstlight-endless-output{where}", timeout_s=60)
    assert subprocess.run(["pgrep", "-f", "yes firstlight-endless"], capture_output=True, check=False).stdout == b""


def test_a_file_that_is_too_large_is_not_read_whole(here: Host, tmp_path: Path) -> None:
    session = open_session(here)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(RemoteCommandError, match="printed more than 64 MiB and was broken off"):
        session.read(str(tmp_path / "large"))
    (tmp_path / "small").write_bytes(b"x" * 2048)
    assert session.read(str(tmp_path / "small"), limit_bytes=2048) == b"x" * 2048
    with pytest.raises(RemoteCommandError, match="printed more than 0 MiB"):
        session.read(str(tmp_path / "small"), limit_bytes=2047)


def test_output_up_to_the_limit_and_input_of_any_size_pass(here: Host) -> None:
    session = open_session(here)
    done = session.run(f"head -c {RUN_BYTES} /dev/zero | tr '\\0' x")
    assert (done.rc, len(done.stdout)) == (0, RUN_BYTES)
    text = "line of input\n" * 200_000
    assert session.run("cat", stdin=text).stdout == text
    assert session.run("exit 3", stdin=text).rc == 3


@pytest.mark.slow
def test_a_command_without_output_ends_in_time(here: Host) -> None:
    session = open_session(here)
    for command in ("sleep 50", "exec >&- 2>&-; sleep 50"):
        started = time.monotonic()
        with pytest.raises(RemoteCommandError, match="did not end within 1 s"):
            session.run(command, timeout_s=1)
        assert time.monotonic() - started < 30


class TruncatingSession:
    """A session whose host ends every command early and reports success."""

    host = "here"

    def __init__(self, host: Host) -> None:
        self._session = open_session(host)

    def run(self, command: str, **options: object) -> object:
        done = self._session.run(command, **options)  # type: ignore[arg-type]
        lines = done.stdout.splitlines(keepends=True)
        return type(done)(0, "".join(lines[: len(lines) // 2]), done.stderr)


def test_a_truncated_answer_is_an_error_and_not_a_host_without_cards(here: Host) -> None:
    with pytest.raises(RemoteCommandError, match="answer was cut after") as caught:
        probe(here, TruncatingSession(here))  # type: ignore[arg-type]
    assert "hint: run it again" in caught.value.render()
