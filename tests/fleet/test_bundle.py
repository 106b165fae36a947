"""A bundle is made with a network; a controller without network, index, cache and .venv provisions a bare host from it."""

import json
import re
from pathlib import Path

import pytest

from provision.phases.plan.fit.shape import shape_of
from provision.phases.plan.fit.split import cache_of
from provision.phases.plan.fit.tables import platforms
from provision.phases.plan.fit.weights import counted
from provision.phases.serve.options import options
from tests.fleet.bundles import OfflineController
from tests.fleet.hosts import Fleet, FleetHost

pytestmark = pytest.mark.long(seconds=280)


def test_a_bare_host_is_provisioned_from_one_file(fleet: Fleet, tmp_path: Path) -> None:
    [host] = fleet.boot(1)
    inventory = str(host.inventory(tmp_path / "inventory"))
    controller, told = OfflineController.made(tmp_path, inventory)
    assert f"for {host.name}: vLLM" in told
    runs = [controller.provision(inventory) for _ in range(2)]
    assert [run["verdict"] for run in runs] == ["green"] * 2
    assert [run["hosts"][0]["state"] for run in runs] == ["serving", "unchanged"]
    # the missing packages of the host came in the file as well
    assert host.sh("dpkg-query -W -f '${Status}' libnuma1").strip() == "install ok installed"
    assert tokens_by_vllm(host) == tokens_computed(host)


def tokens_by_vllm(host: FleetHost) -> int:
    """Return the number of tokens that the engine reports for its cache."""
    log = host.sh("journalctl --no-pager --unit firstlight-vllm.service")
    found = re.findall(r"KV cache size: ([\d,]+) tokens", log)
    assert found, log[-4000:]
    return int(found[-1].replace(",", ""))


def tokens_computed(host: FleetHost) -> int:
    """Return the number of tokens that the product computes before it fetches a model."""
    config = json.loads(host.sh("cat /opt/firstlight/models/builtin-*/config.json"))
    builtin = options()["builtin"]
    block = platforms()["cpu"].block
    cache = cache_of(shape_of(config, counted({}, "")), tensor=1, pipeline=1, element=2, block=block, in_flight=0)
    return cache.tokens(builtin["kv_cache_bytes"], builtin["max_model_len"])
