"""OS packages of features on hosts whose package sources do not answer: what `plan` says, and what is sent."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from provision.catalog.index.settings import ClientSettings
from provision.core.errors import StageError
from provision.core.install_paths import InstallPaths
from provision.core.models.facts import HostFacts, OperatingSystem
from provision.features.bundle.reader import Bundled
from provision.features.gateway import hooks
from provision.fleet import package_sources
from provision.run import deb_packages
from provision.run.context import RunContext, RunOptions
from provision.run.results import PlannedHosts, ProbedHosts
from tests.pipeline.local_context import local_context, local_host


class Fake:
    """A session of a host: which packages it has, whether its sources answer, and what it was sent."""

    def __init__(self, has: Sequence[str], *, answers: bool | None) -> None:
        self.has, self.answers, self.sent = has, answers, list[str]()

    def run(self, command: str, **_: Any) -> SimpleNamespace:
        assert "dpkg-query" in command
        return SimpleNamespace(stdout="".join(f"installed {name}\n" for name in self.has))

    def read(self, path: str) -> bytes:
        return b""

    def send(self, files: Sequence[Any], folder: str) -> None:
        self.sent += [f"{folder}/{file.name}" for file in files]

    def close(self) -> None:
        """Nothing is open."""


def context_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session: Fake) -> tuple[RunContext, PlannedHosts]:
    context = local_context(tmp_path, "g")
    context.inventory = context.inventory.model_copy(update={"hosts": (local_host("g", "gateway"),)})
    monkeypatch.setattr(RunContext, "session", lambda *_: session)
    monkeypatch.setattr(deb_packages, "package_sources_answer", lambda found: cast("Fake", found).answers)
    facts = HostFacts(
        host="g",
        probed_at="2026-01-01T00:00:00Z",
        os=OperatingSystem(id="debian", version_id="12", machine="x86_64", package_manager="apt"),
    )
    paths = InstallPaths(prefix="/opt/x", incoming="/var/tmp/x", owner="x", root=True)
    return context, PlannedHosts(facts={"g": facts}, install_paths={"g": paths})


def fetch(packages: Sequence[str], *_: Any, **__: Any) -> list[SimpleNamespace]:
    return [SimpleNamespace(name=f"{name}.deb") for name in packages]


@pytest.mark.parametrize(
    ("has", "answers", "sent"),
    [
        ((), False, ["haproxy.deb", "openssl.deb"]),
        (("openssl",), False, ["haproxy.deb"]),
        ((), True, []),
        ((), None, []),
    ],
)
def test_the_controller_sends_what_a_host_lacks_and_cannot_get(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has: Sequence[str], answers: bool | None, sent: list[str]
) -> None:
    session = Fake(has, answers=answers)
    context, hosts = context_of(tmp_path, monkeypatch, session)
    monkeypatch.setattr(deb_packages, "fetch_debs", fetch)
    wanted = hooks.needed_packages(context.inventory.hosts)
    assert deb_packages.send_missing(context, ProbedHosts(hosts.facts, hosts.install_paths), wanted) == {"g": sent}
    assert session.sent == [f"/var/tmp/x/{name}" for name in sent]


def test_a_host_for_which_this_machine_has_none_fails_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, hosts = context_of(tmp_path, monkeypatch, Fake((), answers=False))

    def refuse(*_: Any, **__: Any) -> None:
        raise StageError("this machine has no apt", hint="by hand")

    monkeypatch.setattr(deb_packages, "fetch_debs", refuse)
    assert deb_packages.send_missing(context, hosts, {"g": ["haproxy"]}) == {}
    result = context.outcomes.results["g"]["serve"]
    assert (result.status, result.text, result.hint) == ("failed", "this machine has no apt", "by hand")


@pytest.mark.parametrize(
    ("refused", "bundled", "how"),
    [
        (None, False, "this machine sends them"),
        ("it has no apt", False, "this machine cannot send them: it has no apt"),
        (None, True, "this machine cannot send them: a bundle has none of them"),
    ],
)
def test_plan_says_which_packages_a_host_cannot_get(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str | None, bundled: bool, how: str
) -> None:
    context, hosts = context_of(tmp_path, monkeypatch, Fake(("openssl",), answers=False))
    if bundled:
        context.options = RunOptions(client=ClientSettings(bundled=Bundled("site.bundle", "2026-01-02", ())))
    monkeypatch.setattr(deb_packages, "why_not_fetched", lambda *_: refused)
    found = deb_packages.look(context, hosts)
    assert found.notes == (f"g: lacks haproxy, and its package sources do not answer; {how}",)
    context, hosts = context_of(tmp_path / "other", monkeypatch, Fake((), answers=True))
    assert deb_packages.look(context, hosts).notes == ()


def test_a_few_servers_of_a_hosts_package_sources_are_tried_once_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uris = [f"http://mirror-{server}.example/dists/{suite}/InRelease" for server in range(9) for suite in ("a", "b")]
    for name, text in {
        "apt-get": "".join(f"echo \"'{uri}' name 0\"\n" for uri in uris),
        "timeout": f'echo "$*" >>{tmp_path}/tried; exit 124',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    done = subprocess.run(["sh", package_sources._SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout == "silent\n"
    tried = (tmp_path / "tried").read_text().splitlines()
    assert [uri for uri in uris if any(f" {uri} " in words for words in tried)] == uris[0:10:2]
    assert sum(int(words.split()[0]) for words in tried) < 60, "the time that the controller waits"
