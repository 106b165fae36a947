"""Real CUDA builds on a host that shows recorded cards: chosen, locked, fetched, installed, loaded, unchanged by a second run, removed.

There is no card to compute on: verify cannot be green, and must report one cause.
"""

import shlex
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.fleet import disk
from tests.fleet.cards import LOADING_S, boot_with_cards, environment_of, load_extensions
from tests.fleet.command_runner import CommandRunner
from tests.fleet.hosts import Fleet, FleetHost
from tests.fleet.serving import PREFIX

NEEDED_GIB = 21
"""Free disk of this machine: what a plan counts for a CUDA build, and the controller's copy of its wheels."""
FIRST_CAUSE = "devices.driver"
FIRST_LINES = 15
"""The maximum number of lines of a summary for one cause."""


class CardSet(NamedTuple):
    """Settings, recorded cards, and the expected result."""

    recording: str
    vllm: str
    cuda: str
    loaded: tuple[str, ...]
    """Prefixes of names: `_C` became `_C_stable_libtorch`."""
    module: str | None = None
    """What the planned flash attention package is imported as; None where its wheels are not on the package indexes."""


FLASH = ("vllm/_C", "vllm/_moe_C", "vllm/vllm_flash_attn/_vllm_fa2_C", "vllm/vllm_flash_attn/_vllm_fa3_C")
SETS = {
    "newest": CardSet("b200-8", "latest", "13.", (*FLASH, "flashinfer"), "flash_attn.cute"),
    "first-users": CardSet("rtx4070tis-2", "==0.9.1", "12.", (*FLASH, "xformers/", "xformers.ops")),
}


@pytest.fixture
def card_host(fleet: Fleet, wheels_for_once: Path, request: pytest.FixtureRequest) -> Iterator[FleetHost]:
    disk.trim(fleet.disk)
    free = shutil.disk_usage(fleet.folder).free >> 30
    assert free >= NEEDED_GIB, f"{free} GiB are free on this machine; a real set needs {NEEDED_GIB}"
    host = boot_with_cards(fleet, request.param)
    end = disk.regularly(partial(disk.link_equal, wheels_for_once, host.machine.folder / "upper/var/tmp"))
    yield host
    end()
    host.remove()


@pytest.mark.parametrize(
    ("wanted", "card_host"),
    [
        pytest.param(wanted, wanted.recording, id=name, marks=pytest.mark.long(seconds=260))
        for name, wanted in SETS.items()
    ],
    indirect=["card_host"],
)
def test_a_real_set_is_installed_and_loaded_and_missing_cards_are_reported_as_one_cause(
    card_host: FleetHost, wanted: CardSet, tmp_path: Path
) -> None:
    host, firstlight = card_host, CommandRunner(tmp_path / "logs")
    inventory = str(host.inventory(tmp_path))
    asked = ("-i", inventory, "--vllm", wanted.vllm)

    ended = firstlight("provision", *asked)
    phases = {name: result["status"] for name, result in ended.host(host.name)["phases"].items()}
    assert [phases.get(name) for name in ("probe", "plan", "stage", "install")] == ["ok"] * 4, ended.output()
    assert (ended.code, phases["verify"]) == (1, "failed"), ended.output()
    assert [check["id"] for check in ended.host(host.name)["checks"] if check["status"] == "fail"] == [FIRST_CAUSE]
    assert f"check {FIRST_CAUSE}: no NVIDIA kernel module is loaded" in "\n".join(ended.out.splitlines()[:FIRST_LINES])

    environment = environment_of(host)
    answer = load_extensions(host, environment)
    assert answer["cuda"].startswith(wanted.cuda)
    assert {name: value for name, value in answer["outcome"].items() if value} == {}
    for name in wanted.loaded:
        assert any(found.startswith(name) for found in answer["outcome"]), f"no {name} in {sorted(answer['outcome'])}"

    if wanted.module:
        package = ended.host(host.name)["stack"]["flash_attn"]["package"]
        code = f"import importlib.metadata, {wanted.module}; print(importlib.metadata.version({package['distribution']!r}))"
        said = host.sh(f"{environment}/bin/python -I -W ignore -c {shlex.quote(code)}", timeout_s=LOADING_S)
        assert said.strip() == package["version"]

    # Still red because of the checks of the run before, and nothing is to be done.
    ended = firstlight("install", *asked)
    assert ended.summary["changed"] == 0, ended.output()
    assert [result["status"] for result in ended.host(host.name)["phases"].values()] == ["ok"] * 4, ended.output()

    ended = firstlight("uninstall", "-i", inventory)
    assert (ended.code, ended.host(host.name)["state"]) == (0, "removed"), ended.output()
    assert host.sh(f"ls -d {PREFIX} /var/tmp/firstlight* 2>/dev/null; true").strip() == ""
