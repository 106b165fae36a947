"""The load of a service, measured through the controller while it serves, and after a run that ends well."""

import json

import pytest

from tests.fleet.command_runner import CommandRunner
from tests.fleet.hosts import FleetHost
from tests.fleet.serving import INVOCATION, PREFIX

pytestmark = pytest.mark.long(seconds=130)

SHORT = ("--input-tokens", "16", "--output-tokens", "4", "--concurrency", "2", "--requests", "8")


def test_a_load_is_compared_with_the_last_one_of_its_kind(
    host: FleetHost, inventory: str, firstlight: CommandRunner
) -> None:
    started = host.sh(INVOCATION)
    ended = [firstlight("verify", "load", "-i", inventory, "--json", *SHORT) for _ in range(2)]
    assert [each.code for each in ended] == [0, 0], ended[-1].output()
    [first], [second] = (json.loads(each.out) for each in ended)
    assert (first["host"], first["before"]) == (host.name, None)
    assert second["before"] == {"release": first["release"], "at": first["at"]}
    values = {row["name"]: row["value"] for row in first["rows"]}
    assert {row["name"]: row["before"] for row in second["rows"]} == values
    assert host.sh(INVOCATION) == started


def test_a_run_measures_the_usual_load_at_its_end(host: FleetHost, inventory: str, firstlight: CommandRunner) -> None:
    ended = firstlight("provision", "-i", inventory, "--measure")
    assert (ended.code, ended.summary["verdict"]) == (0, "green"), ended.output()
    assert "no earlier measurement of this load" in ended.out, ended.output()
    loads = json.loads(host.sh(f"cat {PREFIX}/verify/loads.json"))["loads"]
    assert [each["load"]["concurrencies"] for each in loads] == [[2], [2], [1, 4, 16]]
