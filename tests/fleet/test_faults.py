"""Real faults of a serving host: each is made there, found by the check that the reference page names, and repaired.

The tests of this file run in order on one host; each continues from the state that the one before left. In the first half, faults are made
and undone one at a time: only the checks that must find a fault run there (`--only`), with the host's own tool and their dependencies. In the
second half, several faults are made and one `provision` repairs them, because each restart of the service and each repair takes half a
minute or more. Faults share a restart only if each has a record of its own (`RUNNING`), or was found before (`DAMAGES`).
The last tests serve a user's model.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from provision.phases.verify.run_checks import tool_command
from tests.fleet import wrong_numbers
from tests.fleet.bigrams import pool, vector_of, write_adapter, write_model
from tests.fleet.command_runner import ROOT, CommandRunner, Ended
from tests.fleet.faults import PREAMBLE, Fault, administration
from tests.fleet.faults.installed import FILES, INJECTED, MODEL, SECRETS, UNIT
from tests.fleet.faults.service import FROZEN, INSTEAD, RUNNING, STOPPED, TREATED
from tests.fleet.faults.surroundings import EXPOSED, LATER, NEXT_START
from tests.fleet.hosts import SHARING_CORES, FleetHost
from tests.fleet.listing import differences, listing
from tests.fleet.serving import INVOCATION, PREFIX, ask, checks_of_what_serves, complete, post, wait_until_healthy
from verify.records import Level

LIMIT_S = 600.0
RESTART_S = 180
REPAIR = pytest.mark.long("faults that a run repairs", seconds=560)
"""Tests from the restart with other settings to the host as it was: faults leave what only a run repairs."""
MODEL_OF_A_USER = pytest.mark.long("a user's model", seconds=480)
WRONG_NUMBERS = [pytest.param(fault, marks=pytest.mark.long(seconds=8), id=fault.name) for fault in wrong_numbers.ALL]
OTHERS = (
    *FILES,
    *INJECTED,
    *MODEL,
    *SECRETS,
    *UNIT,
    *EXPOSED,
    *LATER,
    *NEXT_START,
    *TREATED,
    *administration.ALL,
    FROZEN,
)
CHANGES = [pytest.param(fault, marks=pytest.mark.long(seconds=4), id=fault.name) for fault in OTHERS]
DAMAGES = [fault for fault in (*FILES, *INJECTED, *MODEL, *SECRETS, *UNIT) if fault.status == "fail"]
"""Changes outside the installation, which an administrator may have made on purpose, cause warnings and stay."""

Records = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def untouched(host: FleetHost, inventory: str, firstlight: CommandRunner) -> dict[str, str]:
    """The files of the host before the first fault; a run finds it as planned."""
    firstlight.changes_nothing("provision", "-i", inventory)
    return listing(host)


@pytest.fixture(scope="module")
def sound(host: FleetHost, untouched: dict[str, str]) -> FleetHost:
    """The host, which serves, and whose files have all been read once: a standard check reads only some of those that none has read."""
    assert untouched
    assert verify(host, "full", ("libraries.files",))["libraries.files"]["status"] == "ok"
    return host


def verify(host: FleetHost, level: Level, only: tuple[str, ...]) -> Records:
    """Return the records of some checks and of their dependencies, from the host's own tool."""
    words = ["--level", level, "--json", *(word for name in only for word in ("--only", name))]
    output = host.sh(tool_command(PREFIX, "current", words), check=False, timeout_s=LIMIT_S)
    return {record["id"]: record for record in json.loads(output)["checks"]}


@contextmanager
def made(host: FleetHost, fault: Fault) -> Iterator[None]:
    """Make a fault while the block runs."""
    host.sh(PREAMBLE + fault.make)
    try:
        yield
    finally:
        host.sh(PREAMBLE + fault.undo)


def current(host: FleetHost) -> str:
    return host.sh(f"readlink -f {PREFIX}/current").strip().rpartition("/")[2]


def failing(ended: Ended) -> dict[str, str]:
    """The reasons of the checks that failed in a `verify --json`."""
    document: dict[str, Any] = json.loads(ended.out)
    return {check["id"]: check["reason"] for check in document["checks"] if check["status"] in ("fail", "error")}


def assert_found(fault: Fault, records: Records) -> None:
    """Assert that each check of the fault has the expected status, and that a reason names what is wrong."""
    seen = {name: records[name] for name in fault.checks}
    shown = f"{fault.name}: {json.dumps(seen)}"  # as a text: pytest shortens what it formats itself
    assert {record["status"] for record in seen.values()} == {fault.status}, shown
    assert fault.names in shown.partition(": ")[2], shown


@pytest.mark.long(seconds=60)
def test_a_run_names_what_others_gave_or_left_and_changes_nothing(
    sound: FleetHost, inventory: str, firstlight: CommandRunner
) -> None:
    with ExitStack() as stack:
        for fault in administration.NAMED:
            stack.enter_context(made(sound, fault))
        sound.sh(f"touch {PREFIX}/bin/helper")
        ended = firstlight("provision", "-i", inventory)
        sound.sh(f"rm {PREFIX}/bin/helper")
    host = ended.host(sound.name)
    seen = (ended.code, ended.summary["changed"], ended.summary["verdict"], host["state"])
    assert seen == (0, 0, "amber", "unchanged"), ended.output()
    shown = (*(fault.names for fault in administration.NAMED), "bin/helper")
    assert [text for text in shown if text not in ended.out] == [], ended.output()
    again = firstlight("provision", "-i", inventory)
    assert again.host(sound.name)["warnings"] == [], again.output()


@pytest.mark.parametrize("fault", WRONG_NUMBERS)
def test_a_wrong_number_is_found_by_the_check_of_its_operator(sound: FleetHost, fault: Fault) -> None:
    with made(sound, fault):
        records = verify(sound, fault.level, fault.checks)
    assert_found(fault, records)


@pytest.mark.parametrize("fault", CHANGES)
def test_a_change_of_what_serves_is_found(sound: FleetHost, fault: Fault) -> None:
    with made(sound, fault):
        records = verify(sound, fault.level, fault.checks)
    assert_found(fault, records)


@REPAIR
def test_a_service_that_was_started_with_other_settings_is_found(sound: FleetHost) -> None:
    for fault in RUNNING:
        sound.sh(PREAMBLE + fault.make)
    # The server itself may take the unit's TimeoutStopSec of 60 s to stop.
    sound.sh("systemctl daemon-reload; systemctl restart firstlight-vllm.service", timeout_s=RESTART_S)
    wait_until_healthy(sound)
    command = sound.sh("tr '\\0' ' ' < /proc/$(systemctl show -P MainPID firstlight-vllm)/cmdline")
    assert ("/srv/other" in command, "--middleware" in command) == (True, False), f"the faults were not made: {command}"
    records = verify(sound, "standard", tuple(check for fault in RUNNING for check in fault.checks))
    for fault in RUNNING:
        assert_found(fault, records)


@REPAIR
def test_damage_is_found_while_another_process_has_the_port(
    sound: FleetHost, inventory: str, firstlight: CommandRunner
) -> None:
    for fault in DAMAGES:  # before it stops: some of them are in what the engine has mapped
        sound.sh(PREAMBLE + fault.make)
    sound.sh(PREAMBLE + STOPPED.make)
    assert_found(STOPPED, verify(sound, STOPPED.level, STOPPED.checks))
    for fault in INSTEAD:
        with made(sound, fault):
            assert_found(fault, verify(sound, fault.level, fault.checks))
    for level in ("standard", "quick"):  # the quick run keeps what the longer one found
        ended = firstlight("verify", "-i", inventory, "--level", level, "--json", code=2)
        assert {"libraries.files", "serving.model"} <= set(failing(ended)), ended.output()
    shown = firstlight("status", "-i", inventory)
    assert (shown.code, "libraries.files: fail at standard, found" in shown.out) == (1, True), shown.output()


@REPAIR
def test_one_run_repairs_other_settings_and_damage(sound: FleetHost, inventory: str, firstlight: CommandRunner) -> None:
    sound.sh(f"{PREAMBLE}echo 'import os' > $site/stray.pth")  # no check sees this one: the probe of the run does
    rebuilt, started = f"{current(sound)}-2", sound.sh(INVOCATION)
    ended = firstlight("provision", "-i", inventory)
    for fault in RUNNING:
        sound.sh(PREAMBLE + fault.undo)
    assert ended.code == 0, ended.output()
    assert ended.host(sound.name)["state"] == "serving"
    assert current(sound) == rebuilt
    assert sound.sh(f"ls {PREFIX}/envs").split() == [rebuilt], "there is no return to a damaged environment"
    assert sound.sh(INVOCATION) != started
    answer = ask(sound)
    assert (answer["with"][0], answer["without"][0]) == (200, 401)


@REPAIR
def test_in_the_end_the_host_is_as_before_the_first_fault(
    sound: FleetHost, inventory: str, firstlight: CommandRunner, untouched: dict[str, str]
) -> None:
    firstlight.changes_nothing("provision", "-i", inventory)
    assert differences(untouched, listing(sound)) == {}


@REPAIR
def test_a_sound_host_passes_all_checks_at_full(sound: FleetHost, inventory: str, firstlight: CommandRunner) -> None:
    firstlight("verify", "--level", "full", "-i", inventory, code=0)
    assert "verified ok at full, " in firstlight("status", "-i", inventory).out
    firstlight.changes_nothing("provision", "-i", inventory)


@pytest.fixture(scope="module")
def bigrams(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "bigrams"
    write_model(folder, (ROOT / "README.md").read_text(encoding="utf-8"))
    return folder


@MODEL_OF_A_USER
def test_a_users_model_is_served_and_compared_with_its_last_proof(
    firstlight: CommandRunner, sound: FleetHost, inventory: str, bigrams: Path, tmp_path: Path
) -> None:
    template, adapter = tmp_path / "tools.jinja", tmp_path / "adapter"
    template.write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    write_adapter(adapter)
    own = SHARING_CORES | {"firstlight_chat_template": str(template), "firstlight_lora": {"tone": str(adapter)}}
    asked = ("-i", str(sound.inventory(tmp_path / "own", **own)), "--model", str(bigrams))
    served = firstlight("provision", *asked)
    assert (served.code, served.host(sound.name)["state"]) == (0, "serving"), served.output()
    written = sound.sh(f"cat {PREFIX}/models/bigrams*/chat_template.jinja")
    assert written == template.read_text()
    assert "/chat_template.jinja" in sound.sh("systemctl show -P ExecStart firstlight-vllm")
    again = firstlight("provision", *asked)
    assert (again.code, again.host(sound.name)["state"]) == (0, "unchanged"), again.output()
    [of_adapter] = [line for line in served.host(sound.name)["serve"]["evidence"] if line.startswith("adapter `tone` ")]
    assert "changes log probabilities of a fixed text" in of_adapter
    name = served.host(sound.name)["model"]
    assert complete(sound, "tone") != complete(sound, name) == complete(sound, name)
    assert {check["status"] for check in checks_of_what_serves(firstlight, "-i", inventory).values()} == {"ok"}

    # For the next test.
    sound.sh(f"mkdir -p /srv/models && cp -r {PREFIX}/models/bigrams*/ /srv/models/bigrams")

    # Other weights of the same size, loaded by a start outside a run.
    write_model(tmp_path / "other", (ROOT / "LICENSE").read_text(encoding="utf-8"))
    weights = sound.sh(f"find {PREFIX}/models -path '*/bigrams*/model.safetensors' -type f").strip()
    (sound.machine.root / weights.removeprefix("/")).write_bytes((tmp_path / "other/model.safetensors").read_bytes())
    sound.sh("systemctl restart firstlight-vllm", timeout_s=RESTART_S)  # as above: stopping may take 60 s
    wait_until_healthy(sound)
    found = checks_of_what_serves(firstlight, "-i", inventory)
    assert {name for name, check in found.items() if check["status"] == "fail"} == {"serving.model", "serving.answer"}
    assert "last green run" in found["serving.answer"]["reason"]
    firstlight("provision", *asked, code=0)
    assert {check["status"] for check in checks_of_what_serves(firstlight, "-i", inventory).values()} == {"ok"}


@MODEL_OF_A_USER
def test_a_users_model_on_a_share_of_the_hosts_is_linked_and_not_sent(
    firstlight: CommandRunner, sound: FleetHost, bigrams: Path, tmp_path: Path
) -> None:
    shared = str(sound.inventory(tmp_path / "shared", **SHARING_CORES, firstlight_model_on_host="/srv/models/bigrams"))
    linked = firstlight("provision", "-i", shared, "--model", str(bigrams))
    assert (linked.code, linked.host(sound.name)["state"]) == (0, "serving"), linked.output()
    assert sound.sh(f"find {PREFIX}/models -lname '/srv/models/bigrams/*.safetensors' | wc -l").strip() == "1"


@MODEL_OF_A_USER
def test_a_users_model_of_embeddings_is_served_and_proven_by_its_vectors(
    firstlight: CommandRunner, sound: FleetHost, tmp_path: Path
) -> None:
    write_model(tmp_path / "counts", (ROOT / "LICENSE").read_text(encoding="utf-8"))
    pool(tmp_path / "counts")
    site = str(sound.inventory(tmp_path / "own", **SHARING_CORES))
    asked = ("-i", site, "--model", str(tmp_path / "counts"))
    served = firstlight("provision", *asked)
    assert (served.code, served.host(sound.name)["state"]) == (0, "serving"), served.output()
    evidence = served.host(sound.name)["serve"]["evidence"]
    assert any("those of transformers in float32 by up to 0.0" in line for line in evidence), evidence
    text = "First light"
    answer = post(sound, "/v1/embeddings", model=served.host(sound.name)["model"], input=text)
    assert answer["data"][0]["embedding"] == pytest.approx(vector_of(text), abs=0.001)
    found = checks_of_what_serves(firstlight, "-i", site)
    assert {check["status"] for check in found.values()} == {"ok"}, found
    again = firstlight("provision", *asked)
    assert (again.code, again.host(sound.name)["state"]) == (0, "unchanged"), again.output()
