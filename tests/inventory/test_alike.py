"""A shared answer for many hosts equals the one that OpenSSH gives for each of them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provision.core.errors import InventoryError
from provision.fleet.inventory import load
from provision.fleet.inventory.openssh_groups import SharedAnswers
from provision.fleet.inventory.ssh_config import Resolved, SshConfigReader, SshTarget, read_ssh_config
from tests.inventory.conftest import Make

pytestmark = pytest.mark.slow

NAMES = ("gpu-1", "gpu-2", "cpu-1", "login", "a", "gpu-3.site", "192.0.2.7", "GPU-1", "2001:db8::1")
PATTERNS = st.sampled_from(
    ("gpu-*", "gpu-1", "!gpu-2", "*", "c?u-1", "login", "[gpu-1]", "GPU-*", '"gpu-3.site"', "192.*")
)
OPTIONS = st.sampled_from(
    (
        "User me",
        "User gpu-1",
        "Port 2200",
        "HostName %h.example",
        "HostName 192.0.2.7",
        "ProxyJump login",
        "HostKeyAlias all-of-them",
        "UserKnownHostsFile /known/%h /known/a",
        "SendEnv a",
    )
)
HEADS = st.one_of(
    st.lists(PATTERNS, min_size=1, max_size=3).map(lambda words: f"Host {' '.join(words)}"),
    st.sampled_from(("Match all", "Match final all", "Match host gpu-1", "Match user me", "Host=gpu-2")),
)
BLOCKS = st.lists(st.tuples(HEADS, st.lists(OPTIONS, max_size=2)), max_size=3)


@settings(max_examples=25, deadline=None)  # each calls OpenSSH some twenty times
@given(blocks=BLOCKS, included=st.booleans())
def test_every_host_has_the_answer_of_its_own_call(blocks: list[tuple[str, list[str]]], included: bool) -> None:
    text = "".join(f"{head}\n" + "".join(f"  {option}\n" for option in options) for head, options in blocks)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "blocks").write_text(text)
        (Path(folder) / "config").write_text(f"Include {folder}/blocks\n" if included else text)
        ask = SharedAnswers()
        for name in NAMES:
            wanted = SshTarget(name, name, ("-F", f"{folder}/config"))
            assert outcome(ask, wanted) == outcome(read_ssh_config, wanted), name


def outcome(ask: SshConfigReader, wanted: SshTarget) -> Resolved | str:
    """Return all options, or the reason why there are none, for example for a host that is its own jump host."""
    try:
        return ask(wanted)
    except InventoryError as error:
        return error.text


class Counted:
    """Counts the real calls of OpenSSH."""

    def __init__(self) -> None:
        self.targets: list[str] = []

    def __call__(self, wanted: SshTarget) -> Resolved:
        self.targets.append(wanted.target)
        return read_ssh_config(wanted)


@pytest.mark.parametrize(
    ("configuration", "expected"),
    [
        ("", ["n-0"]),
        ("Host n-1*\n  User other\nHost *\n  User me\n", ["n-0", "n-1"]),
        ("Host n-2\n  User other\n", ["n-0", "n-2"]),
        ("Match host n-2\n  User other\n", [f"n-{number}" for number in range(12)]),
        ("Host *\n  HostName %h.site\n", [f"n-{number}" for number in range(12)]),
    ],
    ids=["none", "by pattern", "by name", "by criteria", "by token"],
)
def test_openssh_is_called_for_each_distinguishable_host(
    configuration: str, expected: list[str], tmp_path: Path
) -> None:
    (tmp_path / "config").write_text(configuration)
    counted = Counted()
    ask = SharedAnswers(counted)
    for number in range(12):
        name = f"n-{number}"
        assert ask(SshTarget(name, name, ("-F", str(tmp_path / "config"))))["host"] == [name]
    assert counted.targets == expected


def test_an_inventory_of_many_hosts_needs_few_calls(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most one call per thread may happen before the first answer."""
    asked: list[Any] = []
    run = subprocess.run

    def counted(command: Any, **options: Any) -> Any:
        asked.extend(["ssh"] if command[0] == "ssh" else [])
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", counted)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    path = make("all: {vars: {ansible_ssh_common_args: -F none}, hosts: {'node[001:200]': }}\n")
    hosts = load(path).hosts
    assert [host.connection.address for host in hosts] == [f"node{number:03}" for number in range(1, 201)]
    assert len(asked) < 10


def test_progress_is_reported_step_by_step(
    make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.modules["provision.fleet.inventory.load"], "SILENT_S", 0.0)
    path = make("all: {hosts: {a: , b: }}\n")
    load(path)
    assert capsys.readouterr().err.splitlines() == [
        f"reading the inventory {path} ...",
        "hosts: 2; asking OpenSSH how each is reached ...",
    ]
