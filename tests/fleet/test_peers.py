"""Files that hosts hand on or get by themselves: what arrives, what the key of a run allows, and what is left of it."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from provision.core.errors import SourceError
from provision.core.install_paths import InstallPaths
from provision.core.models.facts import HostFacts, OperatingSystem, User
from provision.core.models.inventory import Host, Inventory
from provision.core.models.records import Transfers
from provision.core.models.settings import Settings
from provision.core.models.staged import StagedFile
from provision.core.run_folder import RunFolder
from provision.features.peers import access, relay
from provision.features.peers.choice import Choice
from provision.features.peers.distribution import Distribution
from provision.fleet.ssh import Session, open_session
from provision.fleet.ssh.process import Channel
from provision.fleet.ssh.upload import list_remote
from provision.report.live import open_progress
from provision.run.context import RunContext
from provision.run.results import PlannedHosts
from provision.run.sending import SentBytes
from tests.fleet.hosts import Fleet, FleetHost, write_inventory
from tests.fleet.inventories import hosts_of
from tests.ssh.files import bytes_of, staged
from tests.waiting import PATIENCE_S, wait_until

KEYS = "/root/.ssh/authorized_keys"


@dataclass(frozen=True)
class Site:
    """Two hosts, and files that both need."""

    pair: list[FleetHost]
    hosts: list[Host]
    files: list[StagedFile]
    logs: Path
    folder: str = "/var/tmp/handed-on"

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def authorized(self, number: int = 0) -> str:
        return self.pair[number].sh(f"cat {KEYS}")

    def has_all(self, number: int) -> bool:
        """Return whether a host has all files and nothing else of a transfer."""
        sums = "".join(f"{file.sha256}  {file.name}\n" for file in self.files)
        self.pair[number].sh(f"cd {self.folder} && sha256sum --quiet -c - <<'E'\n{sums}E")
        return not self.pair[number].sh(f"cd {self.folder} && ls -d .peers .*.part 2>/dev/null || true")


@pytest.fixture(scope="module")
def hosts(pair: list[FleetHost], tmp_path_factory: pytest.TempPathFactory) -> list[Host]:
    return hosts_of(write_inventory(tmp_path_factory.mktemp("inventory"), pair))


@pytest.fixture
def site(pair: list[FleetHost], hosts: list[Host], tmp_path: Path) -> Iterator[Site]:
    contents = {"a.whl": bytes_of(3_000_000, 1), "b.whl": b"", "model/weights": bytes_of(6_000_000, 2)}
    files = [staged(tmp_path, name, content) for name, content in contents.items()]
    made = Site(pair, [*hosts], files, tmp_path / "logs")
    before = [made.authorized(number) for number in (0, 1)]
    yield made
    left = [host.sh(f"pgrep -fa '[p]eer.py' || true; rm -rf {made.folder}") for host in pair]
    assert (left, [made.authorized(number) for number in (0, 1)]) == (["", ""], before)


@contextmanager
def sessions(hosts: list[Host]) -> Iterator[list[Session]]:
    opened = [open_session(host) for host in hosts]
    yield opened
    for session in opened:
        session.close()


def facts(host: str) -> HostFacts:
    user, system = User(name="root", uid=0, home="/root"), OperatingSystem(id="debian", version_id="12")
    return HostFacts(host=host, probed_at="2026-11-20T08:00:00.000Z", os=system, user=user)


@contextmanager
def index(folder: Path, address: str) -> Iterator[str]:
    """Serve a folder at an address of this machine, as an index whose pages are lists of files."""
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with ThreadingHTTPServer((address, 0), partial(quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://{address}:{server.server_port}"
        server.shutdown()
        thread.join()


def send_to_all(site: Site) -> tuple[Transfers, Path]:
    """Send the files to both hosts; return which bytes came from where, and the folder of the run."""
    names = [host.name for host in site.hosts]
    paths = InstallPaths(prefix="/opt/firstlight", incoming=site.folder, owner="firstlight", root=True)
    planned = PlannedHosts(facts={name: facts(name) for name in names}, install_paths=dict.fromkeys(names, paths))
    with open_progress(names) as progress:
        context = RunContext(
            run=RunFolder.create(site.logs, command="test"),
            inventory=Inventory(hosts=tuple(site.hosts), source="test"),
            progress=progress,
            cache=site.logs,
        )
        with context.stack:
            files = dict.fromkeys(names, site.files)
            sending = Distribution(context, planned, files, Choice(frozenset(names), ""))
            try:
                context.run_on_hosts(
                    "install",
                    site.hosts,
                    lambda host: sending.send(host, lambda _: None),
                    deadline_s=120,
                    cancel=sending.abandon,
                )
            finally:
                sending.close()
    assert not any(context.has_failed(name) for name in names)
    return context.state(SentBytes).transfers, context.run.folder


def test_the_second_host_gets_its_files_from_the_first_and_no_access_is_left(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "FIRST", 1)
    sent, run = send_to_all(site)
    assert (sent.controller, sent.peers, sent.from_peers) == (site.size, site.size, (site.hosts[1].name,))
    assert site.has_all(0)
    assert site.has_all(1)
    assert "PRIVATE KEY" not in "".join(path.read_text() for path in run.rglob("*.json*"))


def test_hosts_get_files_by_themselves_and_the_controller_sends_what_is_wrong_or_missing(
    site: Site, tmp_path: Path, fleet: Fleet
) -> None:
    """One from an index on this machine that lacks a file, one from a folder of its own that has wrong bytes in one."""
    a, b, weights = site.files
    (tmp_path / "index" / "a-whl").mkdir(parents=True)
    (tmp_path / "index" / "a-whl" / a.name).write_bytes(Path(a.path).read_bytes())
    share = site.pair[1].machine.root / "srv/share"
    (share / "model").mkdir(parents=True)
    (share / a.name).write_bytes(b"x" * a.size)
    (share / b.name).touch()
    (share / weights.name).write_bytes(Path(weights.path).read_bytes())
    with index(tmp_path / "index", fleet.network.gateway) as url:
        asks = Settings(source="host", source_index=(url,))
        copies = Settings(source="path", source_folder="/srv/share")
        site.hosts[:] = [
            host.model_copy(update={"settings": settings})
            for host, settings in zip(site.hosts, (asks, copies), strict=True)
        ]
        sent, run = send_to_all(site)
    assert (sent.host, sent.path) == (a.size, a.size + weights.size)
    assert sent.controller == weights.size + a.size
    assert set(sent.short) == {host.name for host in site.hosts}
    events = (run / "events.jsonl").read_text()
    assert "no index has model/weights" in events
    assert "gave wrong bytes" in events
    assert site.has_all(0)
    assert site.has_all(1)
    assert "firstlight-peers" not in site.authorized(0) + site.authorized(1)


def test_a_host_with_another_key_is_no_source_and_the_controller_sends(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "FIRST", 1)
    other = site.pair[1].sh("cat /etc/ssh/ssh_host_ed25519_key.pub").split()[1]
    monkeypatch.setattr(access.Peer, "known_hosts", lambda _: f"peer ssh-ed25519 {other}\n")
    sent, run = send_to_all(site)
    assert (sent.controller, sent.peers, sent.refused) == (2 * site.size, 0, (site.hosts[1].name,))
    assert "Host key verification failed" in (run / "events.jsonl").read_text()
    assert site.has_all(0)
    assert site.has_all(1)


def test_the_controller_sends_the_rest_of_a_host_that_breaks_off(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "FIRST", 1)
    grant = access.grant

    def grant_and_break(session: Session, folder: str, key: access.RunKey) -> Channel:
        channel = grant(session, folder, key)
        ends_early = "s/shutil.copyfileobj(.*/sys.exit(sys.stdout.buffer.write(file.read(1000)))/"
        session.run(f"sed -i '{ends_early}' {folder}/.peers/peer.py")
        return channel

    monkeypatch.setattr(access, "grant", grant_and_break)
    sent, _ = send_to_all(site)
    assert (sent.controller, sent.peers, sent.refused) == (2 * site.size - 1000, 1000, (site.hosts[1].name,))
    assert site.has_all(1)


def test_wrong_bytes_of_a_host_are_replaced_by_the_controller(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "FIRST", 1)
    grant = access.grant

    def change_and_grant(session: Session, folder: str, key: access.RunKey) -> Channel:
        session.run(f"printf x | dd of={folder}/a.whl bs=1 seek=1000 conv=notrunc")
        return grant(session, folder, key)

    monkeypatch.setattr(access, "grant", change_and_grant)
    sent, _ = send_to_all(site)
    wrong = next(file.size for file in site.files if file.name == "a.whl")
    assert (sent.controller, sent.peers, sent.refused) == (site.size + wrong, site.size, (site.hosts[1].name,))
    assert site.has_all(1)


def test_the_key_of_a_run_reads_verified_files_and_nothing_else(site: Site, tmp_path: Path) -> None:
    key, private = access.make_key(), tmp_path / "key"
    private.touch(mode=0o600)
    private.write_text(key.private)
    own = ["-F", "none", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"]
    login = ["ssh", *own, "-o", f"UserKnownHostsFile={site.pair[0].known_hosts}", "-i", str(private)]

    def as_holder(*words: str, options: tuple[str, ...] = (), asked: str = "") -> subprocess.CompletedProcess[bytes]:
        command = [*login, *options, f"root@{site.pair[0].address}", *words]
        return subprocess.run(command, input=asked.encode(), capture_output=True, check=False, timeout=PATIENCE_S)

    with sessions(site.hosts[:1]) as [first]:
        first.send(site.files, site.folder)
        first.write(f"{site.folder}/not-verified", b"secret")
        channel = access.grant(first, site.folder, key)
        end = Path(site.files[0].path).read_bytes()[-10:]
        assert as_holder(asked=f"{site.files[0].sha256} 2999990\n").stdout == end
        refused = [
            as_holder("cat", f"{site.folder}/not-verified"),
            as_holder("cat", asked="../../../etc/shadow 0\n"),
            as_holder(asked=f"{site.files[0].sha256} -1\n"),
            as_holder(options=("-W", "127.0.0.1:22")),
            as_holder("-s", "sftp"),
        ]
        assert [done.stdout for done in refused] == [b""] * len(refused)
        channel.close()
        done = as_holder(asked=f"{site.files[0].sha256} 0\n")
        assert (done.returncode, done.stdout) == (255, b"")
        assert b"Permission denied" in done.stderr


def test_a_key_ends_with_a_killed_controller(site: Site, tmp_path: Path) -> None:
    (tmp_path / "host.json").write_text(site.hosts[0].model_dump_json())
    script = f"""
        import os, signal, sys
        from pathlib import Path
        from provision.core.models.inventory import Host
        from provision.features.peers import access
        from provision.fleet.ssh import open_session
        from provision.fleet.ssh.upload import list_remote

        host = Host.model_validate_json(Path({str(tmp_path / "host.json")!r}).read_text())
        session = open_session(host)
        list_remote(session, {site.folder!r})
        channel = access.grant(session, {site.folder!r}, access.make_key())
        print("granted", flush=True)
        signal.pause()
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE) as controller:
        assert controller.stdout is not None
        assert controller.stdout.readline() == b"granted\n"
        assert "firstlight-peers" in site.authorized()
        os.kill(controller.pid, signal.SIGKILL)
    wait_until(lambda: not site.pair[0].sh("pgrep -f '[p]eer.py grant' || true"), "the grant stays", every_s=0.2)
    assert "firstlight-peers" not in site.authorized()
    assert site.pair[0].sh(f"ls -A {site.folder}") == ""


def test_the_next_run_removes_what_a_power_cut_left_and_until_then_the_key_expires(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "KEY_LIFE_S", -60)
    key = access.make_key()
    source = access.Peer(site.hosts[0].name, site.hosts[0].connection, "root", key)
    with sessions(site.hosts) as [first, second]:
        first.send(site.files, site.folder)
        channel = access.grant(first, site.folder, key)
        site.pair[0].sh("pkill -KILL -f '^[^ ]*python3 -I .*peer.py grant'")
        assert "firstlight-peers" in site.authorized()
        with pytest.raises(SourceError, match="Permission denied"):
            access.fetch(second, site.folder, site.files, source, lambda _: None)
        channel.close()
        list_remote(first, site.folder)
        assert "firstlight-peers" not in site.authorized()
        assert site.has_all(0)
