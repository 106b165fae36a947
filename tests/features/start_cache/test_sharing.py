"""Start caches from host to host. Hosts are folders of this machine with the real program; no engine compiles anything."""

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from provision.core.install_paths import InstallPaths
from provision.core.models.inventory import Host
from provision.core.models.records import PhaseResult
from provision.features.start_cache.onhost import start_cache_archive as program
from provision.features.start_cache.sharing import MOST_ARCHIVES, Archives, StartCaches
from provision.phases.serve.start_cache import folder_of
from provision.run.context import RunContext, RunOptions
from provision.run.results import VerifiedHosts
from provision.run.sending import SentBytes
from tests.pipeline.local_context import local_context

KEY, OTHER = "0" * 16, "1" * 16
CODE = program.ELF + b" a library"


class Site:
    """Hosts that start with keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def context(self, names: str, *, limited: bool = False, together: str = "") -> RunContext:
        context = local_context(self.folder, names, together=together, options=RunOptions(limited=limited))
        for host in context.hosts():
            context.record(PhaseResult(host=host.name, phase="serve", status="ok"))
        return context

    def caches(self, context: RunContext, keys: Mapping[str, str | None], still: str = "") -> StartCaches:
        desired: Any = {}
        for name, key in keys.items():
            prefix = self.folder / name
            python = prefix / "envs/e1/bin/python"
            if not prefix.exists():
                for part in ("envs/e1/bin", "bin", "cache", "verify"):
                    (prefix / part).mkdir(parents=True)
                python.symlink_to(sys.executable)
                shutil.copy(program.__file__, prefix / "bin/start_cache_archive.py")
            paths = InstallPaths(prefix=str(prefix), incoming=f"{prefix}/incoming", owner="nobody", root=False)
            desired[name] = SimpleNamespace(paths=paths, environment="e1", start_cache=key)
        return StartCaches(context, VerifiedHosts(desired=desired), context.hosts(), still=still)

    def start(self, name: str) -> None:
        """Let an engine write what it compiles."""
        file = self.cache(name) / "vllm/kernel.so"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(CODE)

    def cache(self, name: str) -> Path:
        return Path(folder_of(str(self.folder / name), KEY))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def names(turns: list[list[Host]]) -> list[str]:
    return ["".join(host.name for host in turn) for turn in turns]


def states(context: RunContext) -> list[tuple[str, str]]:
    events = [json.loads(line) for line in context.run.path("events.jsonl").read_text().splitlines()]
    return [(event["host"], event["state"]) for event in events if event["kind"] == "start-cache"]


def notes(context: RunContext, name: str) -> str:
    return "; ".join(context.outcomes.results[name]["serve"].notes)


def run(site: Site, context: RunContext, caches: StartCaches) -> None:
    """Start all hosts in their turns; a host without a cache compiles."""
    for turn in caches.turns(context.hosts()):
        caches.before(turn)
        for host in turn:
            if not site.cache(host.name).exists():
                site.start(host.name)
        caches.after(turn, serving=(), proven={host.name for host in turn})


def test_the_first_of_equal_hosts_starts_first_and_its_equals_get_its_cache(site: Site) -> None:
    context = site.context("abc")
    keys = dict.fromkeys("abc", KEY)
    assert names(site.caches(context, keys).turns(context.hosts())) == ["a", "bc"]
    run(site, context, site.caches(context, keys))
    assert states(context)[:1] == [("a", "kept")]
    assert sorted(states(context)[1:]) == [("b", "sent"), ("c", "sent")]
    assert (site.cache("b") / "vllm/kernel.so").read_bytes() == CODE
    assert "start cache of another host sent" in notes(context, "b")
    assert "kept for other hosts" in notes(context, "a")
    assert context.state(SentBytes).transfers.controller > 0
    left = [*site.folder.glob("?/verify/*"), *site.folder.glob("?/incoming/*")]
    assert {path.name for path in left} == {".arrived"}


def test_hosts_of_a_later_wave_wait_for_no_other_one(site: Site) -> None:
    context = site.context("abcd")
    caches = site.caches(context, dict.fromkeys("abcd", KEY))
    hosts = context.hosts()
    assert names(caches.turns(hosts[:2])) == ["a", "b"]
    assert names(caches.turns(hosts[2:])) == ["cd"]


def test_a_cache_whose_host_does_not_serve_with_it_goes_to_no_other_host(site: Site) -> None:
    context = site.context("abc")
    caches = site.caches(context, dict.fromkeys("abc", KEY))
    first, second, third = context.hosts()
    site.start("a")
    caches.after([first], serving=(), proven={"a"})
    caches.before([second])
    caches.after([second], serving=(), proven=set())
    assert not site.cache("b").exists()
    assert "removed again: the service was not verified" in notes(context, "b")
    caches.before([third])
    assert states(context) == [("a", "kept"), ("b", "sent"), ("b", "removed")]


def test_hosts_with_other_keys_and_without_one_start_at_once_and_get_nothing(site: Site) -> None:
    context = site.context("abc")
    caches = site.caches(context, {"a": KEY, "b": OTHER, "c": None})
    assert names(caches.turns(context.hosts())) == ["abc"]
    run(site, context, caches)
    later = site.context("b")
    site.cache("b").rename(site.folder / "gone")
    run(site, later, site.caches(later, {"b": OTHER}))
    assert [state for _, state in states(later)] == []


def test_a_later_run_sends_what_an_earlier_one_kept(site: Site) -> None:
    first = site.context("a", limited=True)
    run(site, first, site.caches(first, {"a": KEY}))
    later = site.context("abc")
    caches = site.caches(later, dict.fromkeys("abc", KEY))
    assert names(caches.turns(later.hosts())) == ["abc"]
    run(site, later, caches)
    assert sorted(states(later)) == [("b", "sent"), ("c", "sent")]


def test_the_only_host_of_an_inventory_is_not_asked(site: Site) -> None:
    context = site.context("a")
    run(site, context, site.caches(context, {"a": KEY}))
    assert (states(context), notes(context, "a"), (site.folder / "controller").exists()) == ([], "", False)


def test_hosts_of_a_span_start_together_and_hosts_that_do_not_start_wait_for_nobody(site: Site) -> None:
    context = site.context("abcd", together="ab")
    caches = site.caches(context, {"a": KEY, "b": OTHER, "c": KEY, "d": KEY}, still="d")
    assert names(caches.turns(context.hosts())) == ["abd", "c"]


def test_an_unproven_host_gives_nothing_and_its_equals_start_without(site: Site) -> None:
    context = site.context("ab")
    caches = site.caches(context, dict.fromkeys("ab", KEY))
    [first, later] = caches.turns(context.hosts())
    site.start("a")
    caches.after(first, serving=(), proven=set())
    caches.before(later)
    assert (states(context), site.cache("b").exists()) == ([], False)


def test_a_damaged_archive_of_the_controller_is_refused_and_removed_and_no_host_fails(site: Site) -> None:
    first = site.context("a", limited=True)
    run(site, first, site.caches(first, {"a": KEY}))
    [archive] = (site.folder / "controller").rglob("*.tar")
    archive.write_bytes(archive.read_bytes()[:-512] + b"x" * 512)
    later = site.context("b")
    run(site, later, site.caches(later, {"b": KEY}))
    assert states(later) == [("b", "refused")]
    assert "start cache not shared" in notes(later, "b")
    assert not later.has_failed("b")
    assert not archive.exists()


def test_a_host_that_answers_something_else_is_left_out_and_does_not_fail(site: Site) -> None:
    context = site.context("ab")
    site.caches(context, dict.fromkeys("ab", KEY))
    (site.folder / "a/bin/start_cache_archive.py").write_text('print(\'{"code": "many"}\')')
    caches = site.caches(context, dict.fromkeys("ab", KEY))
    assert states(context) == [("a", "refused")]
    assert names(caches.turns(context.hosts())) == ["ab"]
    assert not context.has_failed("a")


def test_the_controller_keeps_the_newest_archives_of_an_inventory(tmp_path: Path) -> None:
    mine, other = Archives(tmp_path, "/site/hosts.yml"), Archives(tmp_path, "/other/hosts.yml")
    for number in range(MOST_ARCHIVES + 2):
        mine.put(f"{number:016x}", f"{number}".encode())
    found = mine.find(f"{MOST_ARCHIVES + 1:016x}")
    assert found is not None
    assert found.sha256 == hashlib.sha256(Path(found.path).read_bytes()).hexdigest()
    assert (other.find(f"{5:016x}"), mine.find(f"{0:016x}")) == (None, None)
    assert len([*Path(found.path).parent.iterdir()]) == MOST_ARCHIVES
    assert Path(found.path).parent.stat().st_mode & 0o777 == 0o700
