"""A bundle is made with a network; a controller without network, index, cache and .venv provisions a bare host from it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from minisign import KeyPair

from provision.phases.plan.fit.shape import shape_of
from provision.phases.plan.fit.split import cache_of
from provision.phases.plan.fit.tables import platforms
from provision.phases.plan.fit.weights import counted
from provision.phases.serve.options import options
from tests.fleet.command_runner import RUN_S, CommandRunner
from tests.fleet.hosts import Fleet, FleetHost

pytestmark = pytest.mark.long(seconds=140)

NOWHERE = "http://127.0.0.1:9/simple"


def without_a_network(folder: Path) -> dict[str, str]:
    """The environment of a controller whose index settings point nowhere, with folders of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "PYTHON"))}
    return kept | {
        "HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "FIRSTLIGHT_CACHE": str(folder / "cache"),
        "FIRSTLIGHT_LOGS": str(folder / "logs"),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": NOWHERE,
        "UV_DEFAULT_INDEX": NOWHERE,
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_CACHE_DIR": str(folder / "uv"),
    }


def test_a_bare_host_is_provisioned_from_one_file(fleet: Fleet, tmp_path: Path) -> None:
    [host] = fleet.boot(1)
    inventory = str(host.inventory(tmp_path / "inventory"))
    bundle = tmp_path / "site.bundle"
    pair = KeyPair.generate()
    key, public = tmp_path / "site.key", tmp_path / "site.pub"
    key.write_bytes(bytes(pair.secret_key))
    public.write_bytes(bytes(pair.public_key))
    made = CommandRunner(tmp_path / "logs")("bundle", "create", "-i", inventory, "-o", str(bundle), "--key", str(key))
    assert made.code == 0, made.output()
    assert f"for {host.name}: vLLM" in made.out

    site = tmp_path / "site"
    site.mkdir()
    subprocess.run(["tar", "-xf", str(bundle), "-C", str(site), "product"], check=True)
    command = [
        str(site / "product/firstlight"),
        "provision",
        "--bundle",
        str(bundle),
        "--trust",
        str(public),
        "-i",
        inventory,
    ]
    states = []
    for _ in range(2):
        done = subprocess.run(
            command, env=without_a_network(site), capture_output=True, text=True, timeout=RUN_S, check=False
        )
        assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        summary = json.loads((site / "logs/latest/summary.json").read_text())
        assert summary["verdict"] == "green", done.stdout
        states.append(summary["hosts"][0]["state"])
    assert states == ["serving", "unchanged"]
    # the missing packages of the host came in the file as well
    assert host.sh("dpkg-query -W -f '${Status}' libnuma1").strip() == "install ok installed"
    assert tokens_by_vllm(host) == tokens_computed(host)
    host.remove()


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
