"""`probe` over a session that runs commands on this machine."""

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from provision.core.errors import RemoteCommandError
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings
from provision.fleet.ssh import Completed
from provision.phases.probe.reading import probe
from tests.probe.here import AS_ROOT


class LocalMachine:
    """A session of this machine; `shell` replaces the login shell of the host."""

    host = "here"

    def __init__(self, shell: str = "sh -s") -> None:
        self.shell = shell
        self.calls: list[tuple[str, float]] = []

    def run(self, command: str, *, stdin: str | None = None, timeout_s: float = 60.0, root: bool = False) -> Completed:
        self.calls.append((command, timeout_s))
        done = subprocess.run(
            ["sh", "-c", self.shell], input=stdin, capture_output=True, text=True, check=False, timeout=timeout_s
        )
        return Completed(rc=done.returncode, stdout=done.stdout, stderr=done.stderr)


class UnprivilegedLogin(LocalMachine):
    """A session of this machine that logs in as nobody; root runs what needs root, unless sudo refuses."""

    def __init__(self, *, refused: bool = False) -> None:
        super().__init__("su -s /bin/sh nobody -c 'sh -s'")
        self.refused = refused

    def run(self, command: str, *, stdin: str | None = None, timeout_s: float = 60.0, root: bool = False) -> Completed:
        if not root:
            return super().run(command, stdin=stdin, timeout_s=timeout_s)
        if self.refused:
            raise RemoteCommandError("sudo on host gpu-1 wants a password or is not there; it said: no")
        self.shell = "sh -s"
        return super().run(f"root: {command}", stdin=stdin, timeout_s=timeout_s)


def probed(there: LocalMachine, *, become: bool = False, prefix: str | None = None) -> HostFacts:
    """Return what a probe of a host finds through this session."""
    connection = Connection(kind="local", become=become)
    host = Host(name="gpu-1", connection=connection, settings=Settings(prefix=prefix))
    return probe(host, there)  # type: ignore[arg-type]  # only what probe uses of a session


def test_a_probe_takes_one_round_trip_within_its_deadline() -> None:
    here = LocalMachine()
    facts = probed(here)
    assert here.calls == [("", 20.0)]
    assert facts.host == "gpu-1"
    assert facts.clock_skew_s == pytest.approx(0, abs=20), "a busy machine may take its whole time to answer"
    assert "clock_skew_s" not in facts.unknown


def test_the_prefix_is_that_of_the_installations_owner() -> None:
    of_root = probed(LocalMachine(), become=True)
    named = probed(LocalMachine(), prefix="/srv/light")
    assert of_root.installed is not None
    assert of_root.installed.prefix == "/opt/firstlight"
    assert named.installed is not None
    assert named.installed.prefix == "/srv/light"


@pytest.mark.parametrize(
    ("shell", "message"),
    [("echo This account is not available.; exit 1", "This account is not available."), ("exit 7", "nothing")],
)
def test_a_login_without_a_shell_is_an_error_with_its_output(shell: str, message: str) -> None:
    with pytest.raises(RemoteCommandError) as caught:
        probed(LocalMachine(shell))
    assert "host `gpu-1`" in caught.value.text
    assert caught.value.text.endswith(f"said: {message}")
    assert caught.value.hint is not None


def test_a_login_shell_that_prints_is_refused_since_what_it_prints_gets_into_every_answer() -> None:
    with pytest.raises(RemoteCommandError, match=r"said: Loading cuda/13\.0$") as caught:
        probed(LocalMachine("echo Loading cuda/13.0; exec sh -s"))
    assert "~/.bashrc" in (caught.value.hint or "")


@pytest.fixture
def private() -> Iterator[Path]:
    """An installation of root below a folder that everybody may enter; only root may read it."""
    with tempfile.TemporaryDirectory() as name:
        prefix = Path(name)
        prefix.chmod(0o755)
        (prefix / "envs/e1").mkdir(parents=True)
        (prefix / "envs/e1/.complete").touch()
        (prefix / "state.json").write_text('{"format": 1}', encoding="ascii")
        (prefix / "state.sha256").write_text(f"{'0' * 64}  {prefix}/state.json\n", encoding="ascii")
        for path in ("envs", "state.json", "state.sha256"):
            (prefix / path).chmod(0o700)
        yield prefix


HIDDEN = {"installed.state", "installed.environments", "installed.drift"}


@AS_ROOT
def test_files_that_the_login_may_not_read_are_read_with_the_rights_of_the_run(private: Path) -> None:
    there = UnprivilegedLogin()
    facts = probed(there, become=True, prefix=str(private))
    assert [command for command, _ in there.calls] == ["", "root: "]
    assert facts.installed is not None
    assert (facts.installed.state, facts.installed.environments) == ({"format": 1}, ("e1",))
    assert [each.path for each in facts.installed.drift] == [f"{private}/state.json"]
    assert not facts.unknown.keys() & HIDDEN
    # Everything else is still read as the login.
    assert facts.user.name == "nobody"


@AS_ROOT
def test_without_rights_a_probe_names_unreadable_files_and_the_reason(private: Path) -> None:
    alone = probed(UnprivilegedLogin(), prefix=str(private))
    refused = probed(UnprivilegedLogin(refused=True), become=True, prefix=str(private))
    assert alone.unknown["installed.state"] == f"no permission to read {private}/state.json"
    assert alone.unknown["installed.environments"] == f"no permission to read {private}/envs"
    for name in HIDDEN:
        assert refused.unknown[name].startswith(f"{alone.unknown[name]}; sudo on host gpu-1 wants a password")


@AS_ROOT
def test_readable_files_need_no_second_round_trip(private: Path) -> None:
    for path in ("envs", "state.json", "state.sha256"):
        (private / path).chmod(0o755)
    there = UnprivilegedLogin()
    assert "installed.state" not in probed(there, become=True, prefix=str(private)).unknown
    assert len(there.calls) == 1
