"""The phase `stage` for hosts whose package sources do not answer, without a host."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from provision.core.install_paths import InstallPaths
from provision.core.models.facts import HostFacts, OperatingSystem, User
from provision.core.models.inventory import Connection, Host
from provision.core.models.stack import Plan
from provision.core.models.staged import Staged, StagedFile
from provision.fleet.ssh import Completed
from provision.phases.stage import step
from provision.run.results import PlannedHosts
from tests.pipeline.local_context import local_context
from tests.stage.stacks import make_stack, resolve_to

PATHS = InstallPaths(prefix="/opt/firstlight", incoming="/var/tmp/incoming", owner="firstlight", root=True)


def session_of(host: Host) -> SimpleNamespace:
    """A session: the package sources of hosts `a` and `b` do not answer; each has a package status of its own."""
    answer = Completed(0, "silent\n" if host.name in "ab" else "answers\n", "")
    files = {"/var/lib/dpkg/status": f"Package: of-{host.name}\n".encode()}
    return SimpleNamespace(run=lambda *_, **__: answer, read=lambda path, **_: files[path], close=lambda: None)


def test_each_host_without_package_sources_is_staged_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def staged(resolution: Any, settings: Any, facts: HostFacts, **options: Any) -> Staged:
        del settings, facts
        calls.append({"hosts": resolution.hosts, **options})
        lock = tmp_path / "lock.txt"
        lock.write_text("torch==2.7.0\n")
        uv = StagedFile(name="uv", path=str(lock), sha256="0" * 64, size=1, kind="tool")
        own: dict[str, Any] = {"lock": str(lock), "lock_digest": "d", "environment": "e", "files": (uv,)}
        return Staged(hosts=resolution.hosts, stack=resolution.stack, **own)

    monkeypatch.setattr(step, "lock_and_fetch", staged)
    monkeypatch.setattr("provision.run.context.open_session", session_of)
    context = local_context(tmp_path, "abcd")
    hosts = tuple(host.model_copy(update={"connection": Connection(kind="ssh")}) for host in context.inventory.hosts)
    context.inventory = context.inventory.model_copy(update={"hosts": hosts})
    stack = make_stack(None, None).model_copy(update={"vllm": None, "attention": None, "system_packages": ("libnuma",)})
    system = OperatingSystem(id="debian", version_id="12", package_manager="apt", machine="x86_64")
    names = ("a", "b", "c", "d")
    facts = {
        name: HostFacts(host=name, probed_at="2026-01-01T00:00:00Z", os=system, user=User(name="root", uid=0))
        for name in names
    }
    plan = Plan(classes=(resolve_to(stack).model_copy(update={"hosts": names}),))
    with context.stack:
        found = step.stage(context, PlannedHosts(facts, dict.fromkeys(names, PATHS), plan))
    alone = [(call["hosts"], call["dpkg_status"]) for call in calls]
    assert alone == [(("a",), "Package: of-a\n"), (("b",), "Package: of-b\n"), (("c", "d"), None)]
    assert [bool(call["deb_packages"]) for call in calls] == [True, True, False], "the others fetch them by themselves"
    assert [[other.host for other in call["others"]] for call in calls] == [[], [], ["d"]]
    assert {*found.staged} == {*names}
