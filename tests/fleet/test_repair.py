"""One provision repairs damage that checks found: a real environment and the built-in model are rebuilt next to the live ones.

The tests of this file run in order on one host; each continues from the state that the one before left.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.bigrams import write_model
from tests.fleet.command_runner import ROOT, CommandRunner, Ended
from tests.fleet.hosts import Fleet, FleetHost
from tests.fleet.serving import PREFIX, ask, checks_of_what_serves, wait_until_healthy

FLIP = "import sys; f = open(sys.argv[1], 'r+b'); f.seek({at}); b = f.read(1); f.seek({at}); f.write(bytes([b[0] ^ 1]))"


@pytest.fixture(scope="module")
def host(fleet: Fleet) -> FleetHost:
    return fleet.boot(1)[0]


@pytest.fixture(scope="module")
def inventory(host: FleetHost, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(host.inventory(tmp_path_factory.mktemp("inventory")))


@pytest.fixture(scope="module")
def firstlight(inventory: str, tmp_path_factory: pytest.TempPathFactory) -> CommandRunner:
    """The command line; the host serves."""
    run = CommandRunner(tmp_path_factory.mktemp("run") / "logs")
    made = run("provision", "-i", inventory)
    assert made.code == 0, made.output()
    return run


def flip(host: FleetHost, path: str, at: int = 4096) -> None:
    """Change one bit of a file in place, and set its time back."""
    quoted = f'"$(ls {PREFIX}/{path})"'
    host.sh(f'touch -r {quoted} /tmp/time; python3 -c "{FLIP.format(at=at)}" {quoted}; touch -r /tmp/time {quoted}')


def current(host: FleetHost) -> str:
    return host.sh(f"readlink -f {PREFIX}/current").strip().rpartition("/")[2]


def failing(ended: Ended) -> dict[str, str]:
    """The reasons of the checks that failed in a `verify --json`."""
    document: dict[str, Any] = json.loads(ended.out)
    return {check["id"]: check["reason"] for check in document["checks"] if check["status"] in ("fail", "error")}


def test_an_unchanged_host_has_no_failure(firstlight: CommandRunner, inventory: str) -> None:
    for level in ("standard", "full"):
        ended = firstlight("verify", "-i", inventory, "--level", level, "--json")
        assert failing(ended) == {}, ended.output()
    assert "verified ok at full, " in firstlight("status", "-i", inventory).out


def test_a_changed_bit_of_a_library_is_found_at_standard_and_kept_by_a_quick_run(
    firstlight: CommandRunner, host: FleetHost, inventory: str
) -> None:
    flip(host, "current/lib/python*/site-packages/torch/lib/libtorch_cpu.so", 200_000_000)
    ended = firstlight("verify", "-i", inventory, "--json")
    assert (ended.code, list(failing(ended))) == (2, ["libraries.files"]), ended.output()
    quick = firstlight("verify", "-i", inventory, "--level", "quick", "--json")
    assert (quick.code, list(failing(quick))) == (2, ["libraries.files"]), quick.output()
    shown = firstlight("status", "-i", inventory)
    assert (shown.code, "libraries.files: fail at standard, found" in shown.out) == (1, True), shown.output()


def test_one_provision_rebuilds_the_environment_next_to_it_while_the_service_runs(
    firstlight: CommandRunner, host: FleetHost, inventory: str
) -> None:
    before = current(host)
    ended = firstlight("provision", "-i", inventory)
    assert ended.code == 0, ended.output()
    assert current(host) == f"{before}-2"
    assert host.sh(f"ls {PREFIX}/envs").split() == [f"{before}-2"], "there is no return to a damaged environment"
    assert ask(host)["with"][0] == 200
    assert failing(firstlight("verify", "-i", inventory, "--json")) == {}
    again = firstlight("provision", "-i", inventory)
    assert (again.code, again.host(host.name)["state"]) == (0, "unchanged"), again.output()


def test_damage_that_the_probe_found_is_repaired_without_checks(
    firstlight: CommandRunner, host: FleetHost, inventory: str
) -> None:
    packages = host.sh(f"ls -d {PREFIX}/current/lib/python*/site-packages").strip()
    host.sh(f"echo 'import os' > {packages}/stray.pth")
    repaired = firstlight("provision", "-i", inventory)
    assert repaired.code == 0, repaired.output()
    assert current(host).endswith("-3")
    assert failing(firstlight("verify", "-i", inventory, "--json")) == {}


def test_a_damaged_model_is_created_again_and_served(
    firstlight: CommandRunner, host: FleetHost, inventory: str
) -> None:
    started = host.sh("systemctl show --property=MainPID --value firstlight-vllm")
    flip(host, "models/builtin-1/model.safetensors")
    flip(host, "models/builtin-1/tokenizer.json")
    ended = firstlight("verify", "-i", inventory, "--json")
    assert "serving.model" in failing(ended), ended.output()
    repaired = firstlight("provision", "-i", inventory)
    assert repaired.code == 0, repaired.output()
    assert failing(firstlight("verify", "-i", inventory, "--json")) == {}
    assert host.sh("systemctl show --property=MainPID --value firstlight-vllm") != started


def test_a_users_model_is_served_and_compared_with_its_last_proof(
    firstlight: CommandRunner, host: FleetHost, inventory: str, tmp_path: Path
) -> None:
    folder = tmp_path / "bigrams"
    write_model(folder, (ROOT / "README.md").read_text(encoding="utf-8"))
    template = tmp_path / "tools.jinja"
    template.write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    asked = (
        "-i",
        str(host.inventory(tmp_path / "own", firstlight_chat_template=str(template))),
        "--model",
        str(folder),
    )
    served = firstlight("provision", *asked)
    assert (served.code, served.host(host.name)["state"]) == (0, "serving"), served.output()
    written = host.sh(f"cat {PREFIX}/models/bigrams*/chat_template.jinja")
    assert written == template.read_text()
    assert "/chat_template.jinja" in host.sh("systemctl show -P ExecStart firstlight-vllm")
    again = firstlight("provision", *asked)
    assert (again.code, again.host(host.name)["state"]) == (0, "unchanged"), again.output()
    assert {check["status"] for check in checks_of_what_serves(firstlight, "-i", inventory).values()} == {"ok"}

    # The same files on a share of the hosts: they are linked, and not sent.
    host.sh(f"mkdir -p /srv/models && cp -r {PREFIX}/models/bigrams*/ /srv/models/bigrams")
    shared = str(host.inventory(tmp_path / "shared", firstlight_model_on_host="/srv/models/bigrams"))
    linked = firstlight("provision", "-i", shared, "--model", str(folder))
    assert (linked.code, linked.host(host.name)["state"]) == (0, "serving"), linked.output()
    assert host.sh(f"find {PREFIX}/models -lname '/srv/models/bigrams/*.safetensors' | wc -l").strip() == "1"
    assert firstlight("rollback", "-i", inventory).code == 0

    # Other weights of the same size, loaded by a start outside a run.
    write_model(tmp_path / "other", (ROOT / "LICENSE").read_text(encoding="utf-8"))
    weights = host.sh(f"find {PREFIX}/models -path '*/bigrams*/model.safetensors' -type f").strip()
    (host.machine.root / weights.removeprefix("/")).write_bytes((tmp_path / "other/model.safetensors").read_bytes())
    host.sh("systemctl restart firstlight-vllm")
    wait_until_healthy(host)
    found = checks_of_what_serves(firstlight, "-i", inventory)
    assert {name for name, check in found.items() if check["status"] == "fail"} == {"serving.model", "serving.answer"}
    assert "last green run" in found["serving.answer"]["reason"]
    repaired = firstlight("provision", *asked)
    assert repaired.code == 0, repaired.output()
    assert {check["status"] for check in checks_of_what_serves(firstlight, "-i", inventory).values()} == {"ok"}
