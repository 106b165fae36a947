"""When a host is up to date, and which files are sent to one that is not."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest

from provision.core import features
from provision.core.errors import InstallError
from provision.core.install_paths import install_paths_of
from provision.core.models.facts import Disk, Drift, HostFacts, Installed, Memory, OperatingSystem, User
from provision.core.models.inventory import Connection, Host
from provision.core.models.stack import AttentionPlan, TorchBuild, VllmBuild
from provision.core.models.staged import FileKind, Staged, StagedFile
from provision.core.run_folder import RunFolder
from provision.phases.install import step as install
from provision.phases.install.step import require_disk_space
from provision.phases.serve import step as phase_serve
from provision.phases.serve.step import proven
from provision.phases.stage import DiskNeed, disk_needed
from provision.pipeline import operations
from provision.run import desired_state, playbooks
from provision.run.context import RunContext
from provision.run.desired_state import Desired, desired_state_of, peer_writes_arrive
from provision.run.host_changes import changes_of, is_restart_only, is_up_to_date, missing_files, state_changes
from provision.run.results import StagedHosts
from provision.run.sending import Sent
from tests.pipeline.local_context import local_context, local_host
from tests.plan.test_services import services_of
from tests.report.sample import CPU_STACK
from tests.report.sample import facts as facts_of

STACK = CPU_STACK.model_copy(
    update={"attention": AttentionPlan(backend="CPU_ATTN", flag="CPU_ATTN"), "system_packages": ("libnuma",)}
)
BOOT = "5b1c"
SAME_PROCESS = {"main_pid": 71, "start_ticks": 8, "boot_id": BOOT}


def staged_file(name: str, kind: FileKind, size: int = 100) -> StagedFile:
    return StagedFile(name=name, path=f"/cache/{name}", sha256="0" * 64, size=size, kind=kind)


FILES = (
    staged_file("torch-2.13.0.whl", "wheel"),
    staged_file("uv", "tool"),
    staged_file("libnuma1.deb", "deb"),
)


def host_facts(installed: Installed | None = None, **values: Any) -> HostFacts:
    known: dict[str, Any] = {
        "host": "node",
        "probed_at": "2026-11-20T08:00:00.000Z",
        "os": OperatingSystem(id="debian", version_id="12", package_manager="apt", boot_id=BOOT),
        "user": User(name="root", uid=0, home="/root"),
        "memory": Memory(total=2**34),
        "installed": installed,
    }
    return HostFacts(**{**known, **values})


def node(**settings: Any) -> Host:
    return local_host("node", **settings)


def staged_of(folder: Path, *files: StagedFile, **fields: Any) -> Staged:
    """Return what is staged for a host: a lock in a folder, the files of this module, and more."""
    lock = folder / "lock.txt"
    lock.write_text("torch==2.13.0 --hash=sha256:00\n")
    known: dict[str, Any] = {"hosts": ("node",), "stack": STACK, "lock_digest": "l1", "environment": "e1"}
    return Staged(**{**known, **fields}, lock=str(lock), files=(*FILES, *files))


def make_desired(tmp_path: Path, *more: StagedFile, **settings: Any) -> Desired:
    """Return the desired state of a host with the files of this module, and more."""
    tool = tmp_path / "ready.pyz"
    tool.write_bytes(b"PK")
    return desired_state_of(node(**settings), host_facts(), staged_of(tmp_path, *more), tools={"ready.pyz": tool})


@pytest.fixture
def desired(tmp_path: Path) -> Desired:
    return make_desired(tmp_path)


def installed(desired: Desired, **changes: Any) -> Installed:
    values: dict[str, Any] = {
        "prefix": desired.paths.prefix,
        "state": desired.state,
        "current": "e1",
        "release": desired.state["release"],
        "environments": ("e1",),
        "service": "active",
        "service_pid": 71,
        "service_start_ticks": 8,
        "last_verify": {"status": "ok"},
        "last_ready": {**SAME_PROCESS, "ready": True, "record": {"model": "m"}},
    }
    return Installed(**{**values, **changes})


def test_a_host_in_the_desired_state_is_not_changed(desired: Desired) -> None:
    facts = host_facts(installed(desired))
    assert is_up_to_date(desired, facts)
    assert proven(desired, facts)


@pytest.mark.parametrize(
    "change",
    [
        {"state": None},
        {"drift": (Drift(kind="unit", path="/etc/systemd/system/firstlight-vllm.service", text="is gone"),)},
        {"current": "e0"},
        {"release": None},
        {"environments": ()},
        {"service": "failed"},
        {"last_verify": {"status": "fail"}},
        {"last_verify": None},
    ],
    ids="-".join,
)
def test_a_host_with_any_deviation_is_not_up_to_date(desired: Desired, change: dict[str, Any]) -> None:
    facts = host_facts(installed(desired, **change))
    assert not is_up_to_date(desired, facts)
    assert not is_restart_only(desired, facts)


def test_a_changed_service_is_another_state(desired: Desired) -> None:
    assert not is_up_to_date(desired, host_facts(installed(desired, state=state_before(desired))))


def test_a_host_without_an_api_key_says_so(tmp_path: Path) -> None:
    readiness = make_desired(tmp_path, api_key=False).state["readiness"]
    assert readiness["api_key"] is False, "a gateway has to learn of one that comes"


def test_hosts_with_addresses_of_their_own_serve_one_release(tmp_path: Path) -> None:
    def at(bind: str) -> Desired:
        traces = "http://192.0.2.10:4317"
        return make_desired(tmp_path, bind=bind, expose=True, otlp_traces_endpoint=traces)

    first, second, everywhere = at("192.0.2.1"), at("192.0.2.2"), at("0.0.0.0")
    assert first.state["release"] == second.state["release"] != everywhere.state["release"]
    assert first.service.unit != second.service.unit
    [change] = state_changes(second, host_facts(installed(first, last_verify=CHECKED)))
    assert change.text == "address 192.0.2.1 -> 192.0.2.2; it restarts"


def state_before(desired: Desired, **readiness: Any) -> dict[str, Any]:
    """Return the state of a host with another service."""
    return {**desired.state, "service": "s0", "readiness": {**desired.state["readiness"], **readiness}}


CHECKED = {"status": "ok", "environment": "e1"}
DISABLED = Drift(kind="unit", path="/etc/systemd/system/firstlight-vllm.service", text="UnitFileState=disabled")


@pytest.mark.parametrize(
    ("readiness", "change", "alone"),
    [
        ({"port": 9000}, {}, True),
        ({"served_name": "other"}, {}, True),
        ({}, {}, True),  # an argument of vLLM: only the digests differ
        ({"asked": "FLASH_ATTN"}, {}, False),
        ({"processes": 2}, {}, False),
        ({"port": 9000}, {"service": "failed"}, False),
        ({"port": 9000}, {"last_verify": {**CHECKED, "environment": "e0"}}, False),
        ({"port": 9000}, {"last_verify": {**CHECKED, "status": "fail"}}, False),
        ({"port": 9000}, {"drift": (Drift(kind="file", path="/opt/firstlight/bin/uv", text="is gone"),)}, False),
        ({"port": 9000}, {"drift": (DISABLED,)}, True),
    ],
)
def test_checks_hold_where_only_the_start_of_a_service_changes(
    desired: Desired, readiness: dict[str, Any], change: dict[str, Any], alone: bool
) -> None:
    before = {**state_before(desired, **readiness), "release": "r0"}
    facts = host_facts(installed(desired, **{"state": before, "release": "r0", "last_verify": CHECKED, **change}))
    assert not is_up_to_date(desired, facts)
    assert is_restart_only(desired, facts) is alone


def on_gpus(gpus: list[int], desired: Desired) -> dict[str, Any]:
    """Return the state of a host that was planned for these GPUs."""
    return {**desired.state, "stack": {**desired.state["stack"], "gpus": gpus}}


def test_other_gpus_of_the_same_environment_are_checked_and_recorded(tmp_path: Path) -> None:
    for settings in ({}, {"serve": False}):
        desired = make_desired(tmp_path, **settings)
        assert desired.state["stack"] == {
            "gpus": [],
            "attention": desired.stack["attention"],
            "cuda_compat": None,
        }
        service = {"service": None} if settings else {}
        now = installed(desired, last_verify=CHECKED, **service)
        assert is_up_to_date(desired, host_facts(now))
        older = {key: value for key, value in desired.state.items() if key != "stack"}
        assert is_up_to_date(desired, host_facts(now.model_copy(update={"state": older})))
        moved = host_facts(now.model_copy(update={"state": on_gpus([0, 1], desired)}))
        assert {change.part for change in state_changes(desired, moved)} == {"service"}
        assert not is_restart_only(desired, moved)


def test_a_unit_that_is_only_disabled_needs_neither_installation_nor_checks(desired: Desired) -> None:
    facts = host_facts(installed(desired, last_verify=CHECKED, drift=(DISABLED,)))
    assert not is_up_to_date(desired, facts)
    assert is_restart_only(desired, facts)
    unknown = facts.model_copy(update={"unknown": {"installed.drift": "no permission to read /x"}})
    assert not is_restart_only(desired, unknown)


def test_a_change_is_named_with_both_values(desired: Desired) -> None:
    [change] = state_changes(desired, host_facts(installed(desired, state=state_before(desired, port=9000))))
    assert (change.part, change.sign, change.text) == ("service", "~", "port 9000 -> 8000; it restarts")


def staged_model(tmp_path: Path, **contents: dict[str, Any]) -> Staged:
    """Return a staged model with these files."""
    files = []
    for name, content in contents.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        files.append(staged_file(name, "model").model_copy(update={"path": str(path)}))
    return staged_of(tmp_path, *files, model="tiny-0a")


def test_a_draft_model_is_served_with_the_model(tmp_path: Path) -> None:
    staged = staged_model(tmp_path, **{"config.json": {}, "draft/small/config.json": {}})
    host = node(model="org/tiny", speculative={"model": "org/small", "num_speculative_tokens": 2})
    arguments = desired_state_of(host, host_facts(), staged, tools={}).release["arguments"]
    given = json.loads(arguments[arguments.index("--speculative-config") + 1])
    assert given["model"].endswith("/models/tiny-0a/draft/small")


def test_adapters_are_served_with_the_model_and_proven(tmp_path: Path) -> None:
    contents = {"config.json": {"num_attention_heads": 4}, "lora/support/adapter_config.json": {"r": 16}}
    staged = staged_model(tmp_path, **contents)
    host = node(model="org/tiny", lora={"support": "org/support"})
    found = desired_state_of(host, host_facts(), staged, tools={})
    assert found.readiness is not None
    assert found.readiness["adapters"] == ["support"]
    assert f"support={found.paths.prefix}/models/tiny-0a/lora/support" in found.release["arguments"]
    plain = desired_state_of(node(model="org/tiny"), host_facts(), staged, tools={})
    assert plain.readiness is not None
    assert "adapters" not in plain.readiness, "the state of hosts without adapters is that of earlier versions"


def test_a_model_that_makes_vectors_is_proven_by_a_reference(tmp_path: Path) -> None:
    staged = staged_model(tmp_path, **{"config.json": {"architectures": ["Qwen3ForCausalLM"]}, "modules.json": {}})
    found = desired_state_of(node(model="org/tiny"), host_facts(), staged, tools={}).readiness
    assert found is not None
    assert (found["task"], found["pooling"]) == ("embed", [])
    assert found["reference"].startswith(f"{found['prefix']}/verify/reference-tiny-0a-e1-")
    settings: dict[str, Any] = {"model": "org/tiny", "vllm_args": ["--pooler-config", '{"seq_pooling_type": "CLS"}']}
    changed = desired_state_of(node(**settings), host_facts(), staged, tools={}).readiness
    assert (changed or {})["pooling"] == ["--pooler-config"]


def test_the_account_is_new_where_nothing_is_installed(desired: Desired) -> None:
    for there, new in ((None, True), (installed(desired, state=None), False)):
        found = changes_of(node(), host_facts(there), STACK)
        assert ("account" in {change.part for change in found}) == new


def test_unreadable_files_do_not_count_as_unchanged(desired: Desired) -> None:
    facts = host_facts(installed(desired), unknown={"installed.drift": "permission denied"})
    assert not is_up_to_date(desired, facts)


@pytest.mark.parametrize(
    "ready",
    [
        None,
        SAME_PROCESS,  # by a version whose proof does not name the model
        {**SAME_PROCESS, "record": {"model": "m"}, "main_pid": 70},
        {**SAME_PROCESS, "record": {"model": "m"}, "start_ticks": 7},
        {**SAME_PROCESS, "record": {"model": "m"}, "boot_id": "other"},
    ],
)
def test_a_restarted_service_is_proven_again(desired: Desired, ready: dict[str, Any] | None) -> None:
    assert not proven(desired, host_facts(installed(desired, last_ready=ready)))


def test_an_existing_environment_needs_none_of_its_files(desired: Desired) -> None:
    assert missing_files(desired, host_facts(), FILES) == list(FILES)
    there = host_facts(installed(desired, state=None))
    assert [file.kind for file in missing_files(desired, there, FILES)] == ["deb"]


def test_a_disk_that_is_too_small_is_refused_with_both_sizes(desired: Desired) -> None:
    small = (Disk(path="/", mount="/", total=10 * 2**30, free=2**30),)
    with pytest.raises(InstallError) as refused:
        require_disk_space(host_facts(disks=small), desired, DiskNeed(incoming=2**29, prefix=2**30))
    assert refused.value.text == "host `node`: 1.5 GiB are needed on `/`, 1.0 GiB are free"
    assert desired.paths.incoming in (refused.value.hint or "")


def test_another_model_needs_its_space_where_the_environment_is_there(desired: Desired, tmp_path: Path) -> None:
    staged = staged_of(tmp_path, staged_file("model.safetensors", "model", size=2 * 2**30), environment_bytes=2**40)
    there = installed(desired, state={"model": "other-0a"})
    facts = host_facts(there, disks=(Disk(path="/", mount="/", total=2**34, free=2**30),))
    with pytest.raises(InstallError, match=r"2\.0 GiB are needed on `/`, 1\.0 GiB are free"):
        require_disk_space(facts, desired, disk_needed(staged, missing_files(desired, facts, staged.files), {}))


@pytest.mark.parametrize("state", [None, {"model": "other-0a"}], ids=["no record", "another model"])
def test_a_model_that_was_put_in_place_before_the_run_failed_is_not_sent_again(
    desired: Desired, state: dict[str, Any] | None
) -> None:
    files = [staged_file("config.json", "model"), staged_file("w.safetensors", "model")]
    facts = host_facts(installed(desired, state=state, model_files={"builtin-1": ("config.json",)}))
    assert missing_files(desired, facts, files) == files[1:]
    facts = host_facts(installed(desired, state=state, model_files={"other-0a": ("config.json",)}))
    assert missing_files(desired, facts, files) == files


def test_a_host_whose_model_lacks_a_file_is_not_up_to_date(tmp_path: Path) -> None:
    desired = make_desired(tmp_path, staged_file("config.json", "model"), staged_file("w.safetensors", "model"))
    facts = host_facts(installed(desired, model_files={"builtin-1": ("config.json", "w.safetensors")}))
    assert is_up_to_date(desired, facts)
    [change] = state_changes(desired, host_facts(installed(desired, model_files={"builtin-1": ("config.json",)})))
    assert change.part == "model"
    assert "files that are missing or damaged: 1" in change.text


def test_a_model_that_is_moved_on_one_disk_needs_its_space_once(desired: Desired) -> None:
    disks = (Disk(path="/", mount="/", total=2**33, free=3 * 2**30),)
    require_disk_space(host_facts(disks=disks), desired, DiskNeed(incoming=2**31, prefix=2 * 2**30, moved=2**30))
    with pytest.raises(InstallError):
        require_disk_space(host_facts(disks=disks), desired, DiskNeed(incoming=2**31, prefix=2 * 2**30, moved=0))


def test_sizes_on_different_disks_are_not_added_up(desired: Desired) -> None:
    disks = (
        Disk(path="/opt", mount="/opt", total=2**31, free=2**30),
        Disk(path="/var/tmp", mount="/var", total=2**31, free=2**30),
    )
    require_disk_space(host_facts(disks=disks), desired, DiskNeed(incoming=2**30, prefix=2**30))


def test_services_of_a_machine_do_not_get_the_same_space_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk of `m` holds the model of one service alone; that of `z` is as large."""
    hosts = (*services_of(a={}, b={}), local_host("z"))
    context = local_context(tmp_path, "z")
    context.inventory = context.inventory.model_copy(update={"hosts": hosts})
    disks = (Disk(path="/", mount="/", total=2**34, free=3 * 2**30),)
    facts = {host.name: host_facts(disks=disks) for host in hosts}
    planned = staged_of(tmp_path, staged_file("w.safetensors", "model", size=2 * 2**30))
    desired = {host.name: desired_state_of(host, facts[host.name], planned, tools={}) for host in hosts}
    staged = StagedHosts(facts=facts, staged=dict.fromkeys(facts, planned), desired=desired)
    sending = Mock()
    sending.send.return_value = Sent(0, 0.0)
    monkeypatch.setattr(features, "first", lambda *_: sending)
    install._send(context, staged)
    assert {call.args[0].name for call in sending.send.call_args_list} == {"m@a", "z"}
    assert context.outcomes.results["m@b"]["install"].text == (
        "host `node`: 2.0 GiB are needed on `/`, 3.0 GiB are free, of which other services get 2.0 GiB"
    )


def test_rights_decide_the_locations() -> None:
    user = User(name="ann", uid=1000, home="/home/ann")
    own = install_paths_of(node(), host_facts(user=user))
    assert (own.prefix, own.owner, own.root) == ("/home/ann/.local/share/firstlight", "ann", False)
    become = node().model_copy(update={"connection": Connection(kind="local", become=True)})
    system = install_paths_of(become, host_facts(user=user))
    assert (system.prefix, system.owner, system.root) == ("/opt/firstlight", "firstlight", True)
    assert system.incoming == own.incoming == "/var/tmp/firstlight-1000"
    named = install_paths_of(node(prefix="/data/fl/"), host_facts())
    assert named.prefix == "/data/fl"


def test_the_playbooks_get_exactly_what_is_desired(desired: Desired) -> None:
    variables = desired.ansible_vars()
    assert variables["firstlight_environment"]["digest"] == "e1"
    assert variables["firstlight_system_packages"] == ["libnuma1"]
    assert variables["firstlight_debs"] == ["libnuma1.deb"]
    assert variables["firstlight_model"] == {
        "kind": "builtin",
        "name": "builtin-1",
        "folder": "builtin-1",
        "files": [],
        "on_host": None,
    }
    state, record = variables["firstlight_state"], variables["firstlight_release"]
    assert state["readiness"]["asked"] == "CPU_ATTN"
    assert state["readiness"]["release"] == state["release"]
    assert "api_key" not in state["readiness"]
    assert (record["environment"], record["attention"]) == ("e1", "CPU_ATTN")
    assert record["model"] == {"kind": "builtin", "folder": "builtin-1"}
    assert record["endpoint"] == {"bind": "127.0.0.1", "port": 8000, "model": "builtin-1"}
    assert "key" not in str(variables["firstlight_service"]["environment"]).lower()


DAMAGED = {"status": "fail", "environment": "e1", "checks": [{"id": "libraries.files", "status": "fail"}]}


def test_a_damaged_environment_is_rebuilt_next_to_it_with_the_same_digest(desired: Desired, tmp_path: Path) -> None:
    staged = staged_of(tmp_path)
    facts = host_facts(installed(desired, last_verify=DAMAGED))
    again = desired_state_of(node(), facts, staged, tools={"ready.pyz": tmp_path / "ready.pyz"})
    assert again.environment == again.ansible_vars()["firstlight_environment"]["digest"] == "e1-2"
    assert again.state["environment"] == "e1-2"
    assert again.state["readiness"] == desired.state["readiness"]
    assert not is_up_to_date(again, facts)
    assert missing_files(again, facts, FILES) == list(FILES)


USERS = "/opt/firstlight/models/builtin-1"
"""The folder of the model that these hosts serve; here it is a user's model."""


@pytest.mark.parametrize(
    ("problem", "sent"),
    [
        (f"{USERS}/w.safetensors: its content is not the recorded one", {"w.safetensors"}),
        (f"{USERS}/w.safetensors: No such file or directory", {"w.safetensors"}),
        (f"{USERS}/added.json: nobody installed it", set()),
        (f"the endpoint serves /tmp/other as m, planned {USERS}", set()),
    ],
)
def test_damaged_files_of_a_model_are_sent_again(desired: Desired, problem: str, sent: set[str]) -> None:
    files = [*FILES, staged_file("w.safetensors", "model"), staged_file("w.safetensors.index.json", "model")]
    checks = [{"id": "serving.model", "status": "fail", "evidence": {"folder": USERS, "problems": [problem]}}]
    taken = {"builtin-1": tuple(file.name for file in files)}
    facts = host_facts(installed(desired, model_files=taken, last_verify={"status": "fail", "checks": checks}))
    assert {file.name for file in missing_files(desired, facts, files) if file.kind == "model"} == sent
    checks[0]["evidence"] = {"folder": USERS, "problems": [problem] * 100}
    facts = host_facts(installed(desired, model_files=taken, last_verify={"status": "fail", "checks": checks}))
    assert len([file for file in missing_files(desired, facts, files) if file.kind == "model"]) == 2, (
        "not all are listed"
    )


def test_a_changed_file_of_a_model_is_sent_again_without_a_check(desired: Desired) -> None:
    files = [*FILES, staged_file("w.safetensors", "model"), staged_file("config.json", "model")]
    drift = (Drift(kind="file", path=f"{USERS}/config.json", text="was written to"),)
    facts = host_facts(installed(desired, drift=drift, model_files={"builtin-1": ("w.safetensors", "config.json")}))
    assert [file.name for file in missing_files(desired, facts, files) if file.kind == "model"] == ["config.json"]


def peers_record(status: str) -> dict[str, Any]:
    return {"checks": [{"id": "kernels.gemm", "status": "warn"}, {"id": "collectives.peers", "status": status}]}


OK, SKIPPED, WARNED = (peers_record(status) for status in ("ok", "skip", "warn"))


@pytest.mark.parametrize(
    ("newest_first", "arrive"),
    [
        ([None], True),
        ([{"checks": "of another release"}], True),
        ([OK], True),
        ([SKIPPED], True),
        ([WARNED], False),
        ([SKIPPED, WARNED], False),
        ([peers_record("error"), WARNED], False),
        ([None, {**SKIPPED, "carried": WARNED["checks"]}], False),
        ([OK, WARNED], True),
        ([SKIPPED, OK], True),
    ],
)
def test_writes_between_cards_are_used_until_a_check_warned_and_again_after_one_that_is_ok(
    newest_first: list[Any], arrive: bool
) -> None:
    assert peer_writes_arrive(*newest_first) is arrive


def test_newer_checks_override_those_stored_on_the_host(tmp_path: Path) -> None:
    stack = STACK.model_copy(
        update={
            "vllm": VllmBuild(version="0.26.0", variant="cu130"),
            "torch": TorchBuild(version="2.13.0", variant="cu130"),
            "attention": AttentionPlan(backend="FLASH_ATTN", flag="FLASH_ATTN"),
        }
    )
    staged = staged_of(tmp_path, stack=stack)
    kept = Installed(prefix="/opt/firstlight", last_verify=WARNED)
    facts = host_facts(kept, nvidia=facts_of("node", gpus=2).nvidia)

    def serves_with(verified: Any) -> bool:
        service = desired_state_of(node(), facts, staged, tools={}, verified=verified).service
        return "NCCL_P2P_DISABLE" not in service.environment

    assert not serves_with(None)
    assert not serves_with(SKIPPED)
    assert serves_with(OK)


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({}, None),
        ({"model_files": {}}, "its model is not"),
        ({"environments": ("e0",), "model_files": {}}, "the planned environment `e1` and its model are not"),
        ({"image": None}, None),  # asked on the host, where podman may have it without a unit
    ],
)
def test_serve_switches_only_to_what_the_host_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: dict[str, Any], said: str | None
) -> None:
    settings = {"runtime": "podman", "image": "/images/system.tar", "model": "org/tiny"}
    staged = staged_model(tmp_path, **{"config.json": {}})
    image = staged_file(f"image-{'a' * 64}.tar", "image")
    staged = staged.model_copy(update={"files": (*staged.files, image)})
    wanted = desired_state_of(node(**settings), host_facts(), staged, tools={})
    has = installed(wanted, **{"image": "a" * 64, "model_files": {"tiny-0a": ("config.json",)}, **there})
    result = StagedHosts(facts={"node": host_facts(has)}, staged={"node": staged}, desired={"node": wanted})
    context, served = local_context(tmp_path, ["node"], settings=settings), list[str]()
    monkeypatch.setattr(playbooks, "acquire_locks", lambda *_: None)
    monkeypatch.setattr(phase_serve, "serve", lambda *_, **__: served.extend(host.name for host in context.hosts()))
    operations._serve_installed(context, result)
    assert served == ([] if said else ["node"])
    if said:
        failed = context.outcomes.results["node"]["serve"]
        assert failed.text == f"host `node`: {said} installed"
        assert "./firstlight provision" in (failed.hint or "")


def test_a_changed_role_changes_the_digest_of_the_desired_state_and_no_compiled_module_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = tmp_path / "playbooks/roles/base/tasks/main.yml"
    role.parent.mkdir(parents=True)
    role.write_text("- name: one\n")
    monkeypatch.setattr(desired_state, "product_path", lambda name: tmp_path / name)
    digest = desired_state.product_digest.__wrapped__
    before = digest(())
    compiled = tmp_path / "playbooks/library/__pycache__/module.cpython-311.pyc.140034"
    compiled.parent.mkdir(parents=True)
    compiled.write_bytes(b"half of it, which another run writes")
    assert digest(()) == before
    role.write_text("- name: another\n")
    assert digest(()) != before


def test_the_bill_of_materials_of_each_environment_that_is_built_is_in_the_run(
    desired: Desired, tmp_path: Path
) -> None:
    """One a distinct environment; none of a host that has its environment."""
    staged = staged_of(tmp_path).model_copy(update={"files": ()})
    other = staged.model_copy(update={"environment": "e2"})
    here = Installed(prefix="/opt/firstlight", environments=("e2",))
    names = ("a", "b", "there", "done")
    hosts = [node().model_copy(update={"name": name}) for name in names]
    context = SimpleNamespace(hosts=lambda: hosts, run=RunFolder(tmp_path))
    result = SimpleNamespace(
        up_to_date={"done"},
        restart_only=set(),
        staged={"a": staged, "b": staged, "there": other, "done": other},
        desired={name: desired.model_copy(update={"environment": "e2" if name == "there" else "e1"}) for name in names},
        facts={name: host_facts(here if name == "there" else None) for name in names},
    )
    install.write_sboms(cast("RunContext", context), cast("StagedHosts", result))
    assert [path.name for path in (tmp_path / "sbom").iterdir()] == ["e1.cdx.json"]


def test_an_image_is_loaded_where_podman_does_not_have_it(tmp_path: Path) -> None:
    one, other = "a" * 64, "b" * 64
    image = staged_file(f"image-{one}.tar", "image")
    desired = make_desired(tmp_path, image, runtime="podman", image="/images/system.tar")
    assert f"Image={one}\n" in (desired.service.unit or "")
    assert desired.ansible_vars()["firstlight_image"] == {"id": one, "file": image.name}
    for now, texts in (
        (one, []),
        (None, [f"{one[:12]}, loaded into podman"]),
        (other, [f"{other[:12]} -> {one[:12]}"]),
    ):
        facts = host_facts(installed(desired, image=now))
        assert (image in missing_files(desired, facts, [image])) == bool(texts)
        assert is_up_to_date(desired, facts) == (not texts)
        assert not is_restart_only(desired, facts)
        found = [change.text for change in state_changes(desired, facts) if change.part == "image"]
        assert len(found) == len(texts)
        assert all(text in one_found for text, one_found in zip(texts, found, strict=True))
    idle = make_desired(tmp_path, image, runtime="podman", image="/images/system.tar", serve=False)
    assert (idle.image, missing_files(idle, host_facts(), [image])) == (None, [])
