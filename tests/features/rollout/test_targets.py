"""The file of targets: its form, and by which address others reach a host."""

from __future__ import annotations

import json

import pytest

from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings
from provision.features.rollout.text import targets_text


def host(name: str, bind: str, **settings: object) -> Host:
    connection = Connection(kind="ssh", address="gpu.example.org")
    return Host(name=name, connection=connection, settings=Settings.model_validate({"bind": bind, **settings}))


@pytest.mark.parametrize(
    ("bind", "reached"),
    [
        ("10.0.0.5", "10.0.0.5:8000"),
        ("0.0.0.0", "gpu.example.org:8000"),
        ("localhost", "gpu.example.org:8000"),
        ("fd00::5", "[fd00::5]:8000"),
    ],
)
def test_a_host_is_named_as_others_reach_it(bind: str, reached: str) -> None:
    assert json.loads(targets_text([host("a", bind)], [])) == [{"targets": [reached], "labels": {"host": "a"}}]


def test_only_hosts_in_rotation_are_named() -> None:
    hosts = [host("a", "10.0.0.1"), host("b", "10.0.0.2"), host("c", "10.0.0.3", serve=False)]
    assert [one["labels"]["host"] for one in json.loads(targets_text(hosts, {"a"}))] == ["b"]
    assert targets_text(hosts, {"a", "b"}) == "[]\n"
