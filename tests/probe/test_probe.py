"""`probe` over a session that runs commands on this machine."""

from __future__ import annotations

import subprocess
import time

import pytest

from provision.errors import RemoteCommandError
from provision.models.settings import Connection, Host, Settings
from provision.probe import probe
from provision.remote import Completed, Session


class Here:
    """A session of this machine; `shell` stands in for the login shell that the host gives."""

    host = "here"

    def __init__(self, shell: str = "sh -s") -> None:
        self.shell = shell
        self.calls: list[tuple[str, float]] = []

    def run(self, command: str, *, stdin: str | None = None, timeout_s: float = 60.0, root: bool = False) -> Completed:
        self.calls.append((command, timeout_s))
        started = time.monotonic()
        done = subprocess.run(
            ["sh", "-c", self.shell], input=stdin, capture_output=True, text=True, check=False, timeout=timeout_s
        )
        return Completed(rc=done.returncode, stdout=done.stdout, stderr=done.stderr, seconds=time.monotonic() - started)


def host(*, become: bool = False) -> Host:
    return Host(name="gpu-1", connection=Connection(kind="local", become=become), settings=Settings())


def session(shell: str = "sh -s") -> Session:
    return Here(shell)  # type: ignore[return-value]  # only what probe uses of it


def test_one_round_trip_within_its_deadline() -> None:
    here = Here()
    facts = probe(host(), here)  # type: ignore[arg-type]
    assert here.calls == [("sh -s", 20.0)]
    assert facts.host == "gpu-1"
    assert facts.clock_skew_s == pytest.approx(0, abs=1)
    assert "clock_skew_s" not in facts.unknown


def test_prefix_follows_the_owner_of_the_installation() -> None:
    of_root = probe(host(become=True), session())
    named = probe(host(), session(), prefix="/srv/light", paths=("/srv/models",))
    assert of_root.installed is not None
    assert of_root.installed.prefix == "/opt/firstlight"
    assert named.installed is not None
    assert named.installed.prefix == "/srv/light"
    assert [disk.mount for disk in named.disks if disk.path == "/srv/models"] != [None]


@pytest.mark.parametrize(
    ("shell", "said"),
    [("echo This account is not available.; exit 1", "This account is not available."), ("exit 7", "nothing")],
)
def test_a_login_without_a_shell_is_an_error_with_its_words(shell: str, said: str) -> None:
    with pytest.raises(RemoteCommandError) as caught:
        probe(host(), session(shell))
    assert "host `gpu-1`" in caught.value.text
    assert caught.value.text.endswith(f"said: {said}")
    assert caught.value.hint is not None
