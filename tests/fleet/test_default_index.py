"""A CPU host whose controller reaches only the main index, which has no CPU build of torch: the CUDA build computes instead."""

from pathlib import Path

import pytest

from tests.fleet.command_runner import CommandRunner
from tests.fleet.hosts import Fleet
from tests.fleet.root import TRIXIE

PACKAGES = ("g++", "libnuma1", "python3-dev")
"""OS packages that vLLM needs: this machine's own package sources may belong to another release."""


@pytest.mark.long(seconds=135)
@pytest.mark.usefixtures("wheels_for_once")
def test_the_newest_debian_serves_with_the_torch_of_the_main_index(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.13, for which CPU builds of torch would have to come from find-links or from torch's own index."""
    nothing = tmp_path / "no wheels"
    nothing.mkdir()
    monkeypatch.setenv("UV_FIND_LINKS", str(nothing))
    [host] = fleet.boot(1, suite=TRIXIE, packages=PACKAGES)
    firstlight, inventory = CommandRunner(tmp_path / "logs"), str(host.inventory(tmp_path))

    ended = firstlight("provision", "-i", inventory)
    found = ended.host(host.name)
    assert (ended.code, found["state"]) == (0, "serving"), ended.output()
    assert (found["stack"]["vllm"]["variant"], found["stack"]["torch"]["variant"]) == ("cpu", "cu130")
    printed = " ".join(ended.out.split())
    assert "torch 2.13.0 for cu130 from the package index: a CUDA build, computing on the CPU" in printed
    assert found["attention"]["used"] == "CPU_ATTN"
    assert "32 of 32 greedy tokens equal the reference" in printed
    assert not [check for check in found["checks"] if check["status"] in ("fail", "error")]
