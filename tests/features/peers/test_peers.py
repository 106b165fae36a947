"""Who hands files on, and what becomes of hosts whose source fails or whose transfer is broken off."""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from provision.core.errors import SourceError, TransportError
from provision.core.install_paths import InstallPaths
from provision.core.models.facts import HostFacts, User
from provision.core.models.inventory import Connection, Host, Inventory
from provision.core.models.records import Transfers
from provision.core.models.settings import Settings
from provision.core.models.stack import Plan, Resolution
from provision.core.models.staged import StagedFile
from provision.core.run_folder import RunFolder
from provision.features.peers import access
from provision.features.peers.choice import ENOUGH_HOSTS, choose
from provision.features.peers.distribution import Distribution
from provision.features.peers.hooks import sent_early
from provision.features.peers.relay import FIRST
from provision.fleet.ssh import SendReport
from provision.fleet.ssh.session import Progress
from provision.report.live import open_progress
from provision.report.text import describe_transfers
from provision.run.context import RunContext
from provision.run.results import PlannedHosts
from provision.run.sending import SentBytes

SIZE = 1000
FILE = StagedFile(name="a.whl", path="/cache/a.whl", sha256="0" * 64, size=SIZE, kind="wheel")
NAMES = [f"host{number}" for number in range(8)]
INCOMING = "/var/tmp/in"


def host(name: str, source: Literal["auto", "controller", "peers"] = "auto", **connection: Any) -> Host:
    reached = {"kind": "ssh", "address": f"192.0.2.{len(name)}", **connection}
    return Host(name=name, connection=Connection(**reached), settings=Settings(source=source))


@contextmanager
def run_over(hosts: Sequence[Host], folder: Path) -> Iterator[RunContext]:
    """A run whose records and cache are in a folder."""
    with open_progress([host.name for host in hosts]) as progress:
        context = RunContext(
            run=RunFolder.create(folder / "logs", command="test"),
            inventory=Inventory(hosts=tuple(hosts), source="test"),
            progress=progress,
            cache=folder,
        )
        with context.stack:
            yield context


def distribution(context: RunContext, files: Sequence[StagedFile] = (FILE,), incoming: str = INCOMING) -> Distribution:
    """Return the transfers of the same files to all hosts of a run."""
    names = [host.name for host in context.inventory.hosts]
    user = User(name="root", uid=0, home="/root")
    facts = {name: HostFacts(host=name, probed_at="2026-11-20T08:00:00.000Z", user=user) for name in names}
    paths = InstallPaths(prefix="/opt/firstlight", incoming=incoming, owner="firstlight", root=True)
    planned = PlannedHosts(facts=facts, install_paths=dict.fromkeys(names, paths))
    needed = dict.fromkeys(names, files)
    return Distribution(context, planned, needed, choose(context.inventory.hosts, needed))


@dataclass
class Hosts:
    """All hosts, with the bytes that each has."""

    has: Counter[str] = field(default_factory=Counter)
    open_grants: set[str] = field(default_factory=set)
    gate: threading.Event = field(default_factory=threading.Event)
    closed: list[str] = field(default_factory=list)


class Session:
    def __init__(self, name: str, hosts: Hosts) -> None:
        self.host, self.hosts = name, hosts

    def send(self, files: Sequence[StagedFile], folder: str, *, progress: Progress | None = None) -> SendReport:
        assert folder == INCOMING
        assert progress is not None
        assert self.hosts.gate.wait(20)
        if self.host in self.hosts.closed:
            raise TransportError("the connection was closed")
        there = self.hosts.has[self.host]
        progress(SIZE)
        self.hosts.has[self.host] = SIZE
        return SendReport(tuple(file.name for file in files), SIZE - there, 0.0)

    def close(self) -> None:
        self.hosts.closed.append(self.host)


class Grant:
    def __init__(self, name: str, hosts: Hosts) -> None:
        self.name, self.hosts = name, hosts
        hosts.open_grants.add(name)

    def close(self) -> None:
        self.hosts.open_grants.remove(self.name)


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Hosts:
    made = Hosts()
    made.gate.set()

    def fetch(session: Any, _: str, __: Any, source: access.Peer, progress: Progress) -> None:
        assert made.has[source.name] == SIZE
        assert source.name in made.open_grants
        made.has[session.host] = SIZE
        progress(SIZE)

    monkeypatch.setattr("provision.run.context.open_session", lambda one: Session(one.name, made))
    monkeypatch.setattr(access, "fetch", fetch)
    monkeypatch.setattr(access, "grant", lambda session, *_: Grant(session.host, made))
    return made


@pytest.fixture
def context(tmp_path: Path) -> Iterator[RunContext]:
    with run_over([*map(host, NAMES)], tmp_path) as context:
        yield context


def distribute(context: RunContext) -> dict[str, int]:
    """Send to all hosts; return the bytes that each host reported at the end of its transfer."""
    handing_on = distribution(context)
    reported: Counter[str] = Counter()

    def call(one: Host) -> None:
        handing_on.send(one, lambda count: reported.update({one.name: count}))

    try:
        context.run_on_hosts("install", context.hosts(), call, deadline_s=20, cancel=handing_on.abandon)
    finally:
        handing_on.close()
    return dict(reported)


def test_the_controller_sends_to_the_first_hosts_and_all_access_is_taken_back(
    context: RunContext, hosts: Hosts
) -> None:
    reported = distribute(context)
    assert reported == dict.fromkeys(NAMES, SIZE), "bytes are reported once"
    seen = context.state(SentBytes).transfers
    assert SIZE <= seen.controller <= FIRST * SIZE, "a first host that is quick hands on to the next first one"
    assert seen.controller + seen.peers == len(NAMES) * SIZE
    assert set(NAMES[FIRST:]) <= set(seen.from_peers)
    assert hosts.open_grants == set()


@pytest.mark.parametrize("refused", ["fetch", "grant"])
def test_hosts_that_hand_nothing_on_get_everything_from_the_controller(
    context: RunContext, hosts: Hosts, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    def refuse(*_: Any) -> None:
        raise SourceError("no route to host, or authorized_keys cannot be written")

    monkeypatch.setattr(access, refused, refuse)
    assert distribute(context) == dict.fromkeys(NAMES, SIZE)
    seen = context.state(SentBytes).transfers
    assert (seen.controller, seen.peers) == (len(NAMES) * SIZE, 0)
    assert bool(seen.refused) is (refused == "fetch")
    assert hosts.has == dict.fromkeys(NAMES, SIZE)


def test_a_host_that_fails_is_no_obstacle_for_those_that_wait(
    context: RunContext, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provision.fleet.ssh.dispatch.FIRST_BACKOFF_S", 0.01)
    hosts.closed += NAMES[:FIRST]
    distribute(context)
    assert [context.has_failed(name) for name in NAMES] == [name in NAMES[:FIRST] for name in NAMES]
    assert 0 < context.state(SentBytes).transfers.controller <= FIRST * SIZE


def test_a_run_that_is_interrupted_does_not_wait_for_hosts_that_wait(context: RunContext, hosts: Hosts) -> None:
    hosts.gate.clear()
    handing_on = distribution(context)
    ended: list[BaseException] = []

    def call(one: Host) -> None:
        try:
            handing_on.send(one, lambda _: None)
        except SourceError as error:
            ended.append(error)

    threads = [threading.Thread(target=call, args=(one,)) for one in context.hosts()]
    for thread in threads:
        thread.start()
    for one in context.hosts()[FIRST:]:
        handing_on.abandon(one)
    for thread in threads[FIRST:]:
        thread.join(20)
    assert len(ended) == len(NAMES) - FIRST
    hosts.gate.set()
    for thread in threads[:FIRST]:
        thread.join(20)


@pytest.mark.parametrize(
    ("hosts_needing", "taking_part", "reason"),
    [
        ([host(name) for name in NAMES[:ENOUGH_HOSTS]], ENOUGH_HOSTS, "4 hosts send files to each other"),
        ([host(name) for name in NAMES[: ENOUGH_HOSTS - 1]], 0, "at least 4"),
        ([host(name, "peers") for name in NAMES[:3]], 3, "3 hosts send files to each other"),
        ([host(name, "peers") for name in NAMES[:2]], 0, "at least 3"),
        ([host(name, "controller") for name in NAMES], 0, "is `controller`"),
        ([host(name, address="127.0.0.1", port=2200) for name in NAMES], 0, "a port of the controller"),
        ([host("this", kind="local"), *map(host, NAMES)], len(NAMES), "8 hosts send files to each other"),
        ([], 0, "is `controller`"),
    ],
)
def test_hosts_take_part_by_their_settings_and_how_they_are_reached(
    hosts_needing: list[Host], taking_part: int, reason: str
) -> None:
    choice = choose(hosts_needing)
    assert len(choice.names) == taking_part
    assert reason in choice.reason


def test_wheels_go_in_the_background_to_the_first_hosts_of_each_class_alone(context: RunContext) -> None:
    classes = [Resolution(hosts=tuple(NAMES[:3]), stack=None), Resolution(hosts=tuple(NAMES[3:]), stack=None)]
    planned = PlannedHosts(plan=Plan(classes=tuple(classes)))
    assert [one.name for one in sent_early(planned, context.hosts())] == ["host0", "host1", "host3", "host4"]
    assert len(sent_early(planned, context.hosts()[:3])) == 3


def test_the_summary_names_bytes_by_source() -> None:
    assert describe_transfers(None) is None
    assert describe_transfers(Transfers(reason="nothing to send")) is None
    found = Transfers(
        controller=2 << 30, peers=6 << 30, from_peers=("gpu-3", "gpu-4"), refused=("gpu-4",), reason="why"
    )
    assert describe_transfers(found) == (
        "sent: 2.0 GiB by the controller, 6.0 GiB from host to host (to gpu-3, gpu-4); "
        "no host could serve gpu-4, so the controller sent them the rest; why"
    )
    own = Transfers(host=3 << 30, path=1 << 30, short=("gpu-1",), reason="why")
    assert describe_transfers(own) == (
        "sent: 0 B by the controller, 3.0 GiB fetched by hosts from their index or hub, 1.0 GiB copied by hosts from a folder; "
        "gpu-1 did not get all from their local source, so the controller sent the rest; why"
    )
