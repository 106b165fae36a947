"""Real faults of a host that serves, each made on it and found by the check that the reference page names.

Faults are made one at a time on one host, and taken away again. The checks that must find a fault run alone (`--only`), by the host's own
tool, with what they rest on. Repair is for test_repair.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from provision.verification.running import tool_command
from tests.fleet.faults import FILES, FROZEN, INJECTED, MODEL, PREAMBLE, SECRETS, UNIT, Fault
from tests.fleet.hosts import Fleet, FleetHost
from tests.fleet.serving import PREFIX
from tests.fleet.walks import Walker
from tests.fleet.wrong_numbers import ATTENTION, OPERATORS, PRODUCTS, VLLM
from verify.records import Level

pytestmark = pytest.mark.fleet

LIMIT_S = 600.0

Records = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def firstlight(tmp_path_factory: pytest.TempPathFactory) -> Walker:
    return Walker(tmp_path_factory.mktemp("walk") / "logs")


@pytest.fixture(scope="module")
def host(fleet: Fleet) -> Iterator[FleetHost]:
    [host] = fleet.boot(1)
    yield host
    host.remove()


@pytest.fixture(scope="module")
def inventory(host: FleetHost, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(host.inventory(tmp_path_factory.mktemp("inventory")))


@pytest.fixture(scope="module")
def sound(host: FleetHost, inventory: str, firstlight: Walker) -> FleetHost:
    """The host, once it serves."""
    ended = firstlight("provision", "-i", inventory)
    assert ended.code == 0, ended.told()
    return host


def verify(host: FleetHost, level: Level, only: tuple[str, ...]) -> Records:
    """The records of some checks and of those that they rest on, by the host's own tool."""
    words = ["--level", level, "--json", *(word for name in only for word in ("--only", name))]
    said = host.sh(tool_command(PREFIX, "current", words), check=False, timeout_s=LIMIT_S)
    return {record["id"]: record for record in json.loads(said)["checks"]}


@contextmanager
def made(host: FleetHost, fault: Fault) -> Iterator[None]:
    """A fault while the block runs."""
    host.sh(PREAMBLE + fault.make)
    try:
        yield
    finally:
        host.sh(PREAMBLE + fault.undo)


def assert_found(fault: Fault, records: Records) -> None:
    """Each check that the fault names failed, and one of them says what is wrong."""
    seen = {name: records[name] for name in fault.checks}
    assert {record["status"] for record in seen.values()} == {"fail"}, (fault.name, seen)
    assert fault.names in json.dumps(seen), (fault.name, seen)


@pytest.mark.parametrize("fault", [*OPERATORS, *PRODUCTS, *ATTENTION, *VLLM], ids=lambda fault: fault.name)
def test_a_wrong_number_is_found_by_the_check_of_its_operator(sound: FleetHost, fault: Fault) -> None:
    with made(sound, fault):
        records = verify(sound, fault.level, fault.checks)
    assert_found(fault, records)


@pytest.mark.parametrize("fault", [*FILES, *INJECTED, *MODEL, *SECRETS, *UNIT, FROZEN], ids=lambda fault: fault.name)
def test_a_change_of_what_serves_is_found(sound: FleetHost, fault: Fault) -> None:
    with made(sound, fault):
        records = verify(sound, fault.level, fault.checks)
    assert_found(fault, records)
