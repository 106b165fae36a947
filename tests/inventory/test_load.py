"""Reading inventories, and the errors for broken ones."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from provision.core.errors import Exit, FirstlightError, InventoryError, UsageError
from provision.core.redaction import scrub
from provision.fleet.inventory import load
from tests.inventory.conftest import Make

ROOT = Path(__file__).parents[2]
LOADER = sys.modules[load.__module__]  # whose name the function has in its package

LOCAL = "all: {vars: {ansible_connection: local}, children: {gpu: {hosts: {'gpu-[1:4]': {}}}, other: {hosts: {lone: {}}}}}\n"


def names(path: Path, limit: str | None = None) -> list[str]:
    return [host.name for host in load(path, limit=limit).hosts]


def error_text(path: Path, folder: Path, **arguments: Any) -> str:
    """Return the message of the error, without the test's folder."""
    with pytest.raises(FirstlightError) as caught:
        load(path, **arguments)
    assert caught.value.exit_code is Exit.USAGE
    return caught.value.render().replace(str(folder), "SITE")


def test_the_default_inventory_is_this_machine() -> None:
    [host] = load(ROOT / "inventory/local").hosts
    assert (host.name, host.connection.kind, host.settings.model) == ("localhost", "local", "builtin")


def test_the_example_is_valid_and_matches_its_comments() -> None:
    hosts = {host.name: host for host in load(ROOT / "inventory/example").hosts}
    assert list(hosts) == ["gpu-1", "gpu-2", "gpu-3", "gpu-4", "old-gpu"]
    assert hosts["gpu-2"].connection.address == "gpu-2.example.org"
    assert hosts["gpu-2"].settings.vllm_args == ("--max-num-seqs", "256")
    old = hosts["old-gpu"]
    assert (old.connection.port, old.settings.gpus, old.settings.driver, old.settings.expose) == (
        2222,
        (0, 1),
        "upgrade",
        True,
    )


@pytest.mark.slow
def test_a_value_that_yaml_reads_as_false_is_the_word_that_was_written(make: Make) -> None:
    hosts = load(make(LOCAL, group_vars__all_yml="firstlight_start_caches: off\n")).hosts
    assert {host.settings.start_caches for host in hosts} == {"off"}
    for other in ("''", "[]", "on"):
        path = make(LOCAL, group_vars__all_yml=f"firstlight_start_caches: {other}\n")
        assert "allowed: share or off" in error_text(path, path)


def test_groups_variables_and_templates_work_as_in_ansible(make: Make) -> None:
    path = make(
        LOCAL,
        group_vars__all_yml="base: 9000\nfirstlight_port: '{{ base + 1 }}'\n",
        group_vars__gpu_yml="firstlight_env: {WHO: '{{ inventory_hostname }}', N: 3}\n",
        host_vars__gpu_yml="",
    )
    (path / "host_vars/gpu-2.yml").write_text("base: 7000\n")
    hosts = {host.name: host for host in load(path).hosts}
    assert hosts["gpu-1"].settings.port == 9001
    assert hosts["gpu-2"].settings.port == 7001
    assert hosts["gpu-2"].settings.env == {"WHO": "gpu-2", "N": "3"}
    assert hosts["lone"].settings.env == {}
    assert hosts["gpu-1"].groups == ("gpu",)


@pytest.mark.slow
def test_cached_facts_of_ansible_are_known_to_templates(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANSIBLE_CACHE_PLUGIN", "jsonfile")
    monkeypatch.setenv("ANSIBLE_CACHE_PLUGIN_CONNECTION", str(tmp_path / "facts"))
    keep = 'from ansible.plugins.loader import cache_loader; cache_loader.get("jsonfile").set("a", {"ansible_rack": 7})'
    subprocess.run([sys.executable, "-P", "-c", keep], check=True)
    port = "{{ 8000 + ansible_rack }}"
    path = make(f'all: {{vars: {{ansible_connection: local}}, hosts: {{a: {{firstlight_port: "{port}"}}}}}}\n')
    assert [host.settings.port for host in load(path).hosts] == [8007]


SELECTED = {
    "gpu-[1:2]": ["gpu-1", "gpu-2"],
    "gpu": ["gpu-1", "gpu-2", "gpu-3", "gpu-4"],
    "gpu[0:1]": ["gpu-1", "gpu-2"],
    "gpu:!gpu-3": ["gpu-1", "gpu-2", "gpu-4"],
    "gpu:&gpu-[1:2]": ["gpu-1", "gpu-2"],
    "gpu-*,lone": ["gpu-1", "gpu-2", "gpu-3", "gpu-4", "lone"],
    "~gpu-[34]": ["gpu-3", "gpu-4"],
}
WITHOUT_MATCH = ["gpus", "gpu-5", "gpu-[3:6]", "localhost", "gpu,lonne"]
INVALID = [
    *(",", ", ", "gpu-1,", ",gpu-1", "gpu-1,,gpu-2", ":", "!", "&", "&!", "!&gpu-1", "!!", "~", "~[", "all,~[", "!~("),
    *("gpu-[", "[", "lone]"),
]
READ_EACH = """
import sys
from provision.fleet.inventory import ansible_reader
program, source, *limits = sys.argv
for limit in limits:
    sys.argv = [program, source, limit]
    ansible_reader.main()
    print(flush=True)
"""


@pytest.fixture(scope="module")
def read_within(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return what the reader program prints of an inventory within each limit. One process reads all, as each takes 0.3 s to start."""
    path = tmp_path_factory.mktemp("limits") / "hosts.yml"
    path.write_text(LOCAL)
    limits = [*SELECTED, *WITHOUT_MATCH, *INVALID]
    command = [sys.executable, "-c", READ_EACH, str(path), *limits]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return dict(zip(limits, printed.splitlines(), strict=True))


@pytest.fixture
def limited(make: Make, monkeypatch: pytest.MonkeyPatch, read_within: dict[str, str]) -> Path:
    """An inventory that was read already."""

    def answered(command: list[str], *_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, read_within[command[-1]], "")

    monkeypatch.setattr(LOADER, "run_program", answered)
    return make(LOCAL)


def test_a_limit_is_given_to_the_reader(make: Make, tmp_path: Path) -> None:
    assert names(make(LOCAL), "gpu-[1:2]") == ["gpu-1", "gpu-2"]
    assert "--limit: ','" in error_text(make(LOCAL), tmp_path, limit=",")


@pytest.mark.parametrize("limit", SELECTED)
def test_a_limit_selects_hosts(limited: Path, limit: str) -> None:
    assert names(limited, limit) == SELECTED[limit]


@pytest.mark.parametrize("limit", WITHOUT_MATCH)
def test_a_limit_without_a_match_is_refused(
    limited: Path, snapshot: SnapshotAssertion, tmp_path: Path, limit: str
) -> None:
    assert error_text(limited, tmp_path, limit=limit) == snapshot


@pytest.mark.parametrize("limit", INVALID)
def test_an_empty_or_invalid_pattern_never_extends_a_limit(limited: Path, tmp_path: Path, limit: str) -> None:
    message = error_text(limited, tmp_path, limit=limit)
    assert "--limit: " in message or "matches no host or group of this inventory" in message
    assert "hint:" in message


def test_a_limit_that_excludes_all_hosts_is_refused(make: Make, tmp_path: Path) -> None:
    assert "has no hosts within --limit 'gpu:!gpu'" in error_text(make(LOCAL), tmp_path, limit="gpu:!gpu")


BROKEN = {
    "tab": "all:\n  hosts:\n\tgpu-1:\n",
    "bracket": "all:\n  hosts:\n    gpu-1: {ansible_host: [}\n",
    "unquoted template": "all:\n  vars:\n    firstlight_port: {{ base }}\n",
    "key twice": "all:\n  hosts:\n    gpu-1:\n    gpu-1:\n",
    "host for hosts": "all:\n  host:\n    gpu-1:\n",
    "list of hosts": "all:\n  hosts:\n    - gpu-1\n    - gpu-2\n",
    "text": "just words\n",
    "nothing": "# only a comment\n",
    "no hosts": "all:\n  hosts: {}\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("case", BROKEN)
def test_invalid_files_are_named_with_line_and_column(
    make: Make, snapshot: SnapshotAssertion, tmp_path: Path, case: str
) -> None:
    assert error_text(make(BROKEN[case]), tmp_path) == snapshot


def test_invalid_group_vars_are_named_with_line_and_column(make: Make, tmp_path: Path) -> None:
    path = make(LOCAL, group_vars__gpu_yml="firstlight_port: 1\n  firstlight_env: x\n")
    assert "SITE/site/group_vars/gpu.yml:2:17: this is not valid YAML" in error_text(path, tmp_path)


WRONG = {
    "unknown": "firstlight_prot: 8000",
    "type": "firstlight_port: eight",
    "range": "firstlight_port: 70000",
    "no GPU expected": "firstlight_expected_gpus: 0",
    "GPUs below zero": "firstlight_expected_gpus: -1",
    "choice": "firstlight_driver: newest",
    "list as text": "firstlight_vllm_args: --max-num-seqs 4",
    "policy": "firstlight_vllm: v0.9",
    "owned flag": "firstlight_vllm_args: [--port, 9]",
    "owned short flag": "firstlight_vllm_args: [-tp, 2]",
    "owned flag by its other name": "firstlight_vllm_args: ['--device-memory-utilization=0.5']",
    "owned part of a flag": "firstlight_vllm_args: ['--attention_config.backend=TRITON_ATTN']",
    "owned variable": "firstlight_env: {CUDA_VISIBLE_DEVICES: 0, FIRSTLIGHT_PROOF_DIR: /tmp}",
    "short for an owned flag": "firstlight_vllm_args: ['--hos=0.0.0.0']",
    "short for an owned flag with underscores": "firstlight_vllm_args: [--tensor_par, 2]",
    "short for an owned part": "firstlight_vllm_args: ['--attention-conf.backend=TRITON_ATTN']",
    "owned part in JSON": 'firstlight_vllm_args: [-ac, "{\\"backend\\": \\"TRITON_ATTN\\"}"]',
    "short for a secret argument": "firstlight_vllm_args: [--api-ke, abcdefgh]",
    "file of arguments": "firstlight_vllm_args: [--config, x.yml]",
    "short for a file of arguments": "firstlight_vllm_args: [--conf=x.yml]",
    "a server without the key": "firstlight_vllm_args: [--grp]",
    "a server with TLS": "firstlight_vllm_args: [--ssl-keyf, server.key, '--ssl-certfile=server.pem']",
    "a server at a socket": "firstlight_vllm_args: [--uds, /run/vllm.sock]",
    "files of a hub that are not fetched": "{firstlight_model: org/tiny, firstlight_vllm_args: [--config-format, mistral, --load-format=mistral]}",
    "secret argument": "firstlight_vllm_args: ['--api-key=abc']",
    "secret variable": "firstlight_env: {HF_TOKEN: abc}",
    "bind": "firstlight_bind: 0.0.0.0",
    "bind without key": "{firstlight_bind: 0.0.0.0, firstlight_api_key: false}",
    "bind to a name": "firstlight_bind: gpu.example.org",
    "clients without names": "firstlight_gateway_clients: []",
    "client of two words": "firstlight_gateway_clients: [two words]",
    "budget of nobody": "{firstlight_gateway_clients: [app], firstlight_gateway_tokens_per_day: {ap: 5}}",
    "budget of nothing": "firstlight_gateway_tokens_per_minute: 0",
    "gateway at a name": "firstlight_gateway_bind: gate.example.org",
    "gateway without TLS": "firstlight_gateway_tls: false",
    "built-in model on the host": "firstlight_model_on_host: /mnt/models/tiny",
    "no chat template": "{firstlight_model: org/tiny, firstlight_chat_template: none.jinja}",
    "chat template of the built-in model": "firstlight_chat_template: hosts.yml",
    "chat template of a linked model": "{firstlight_model: org/tiny, firstlight_model_on_host: /mnt/tiny, firstlight_chat_template: hosts.yml}",
    "chat template as an argument": "firstlight_vllm_args: [--chat-template, /etc/tools.jinja]",
    "adapter of the built-in model": "firstlight_lora: {support: org/support}",
    "adapter of a linked model": "{firstlight_model: org/tiny, firstlight_model_on_host: /mnt/tiny, firstlight_lora: {support: org/support}}",
    "no adapter": "{firstlight_model: org/tiny, firstlight_lora: {support: ./none}}",
    "adapter with the name of its model": "{firstlight_model: org/tiny, firstlight_served_model_name: tiny, firstlight_lora: {tiny: org/support}}",
    "adapter that is no name": "{firstlight_model: org/tiny, firstlight_lora: {a/b: org/support}}",
    "adapters as an argument too": "{firstlight_model: org/tiny, firstlight_lora: {a: org/support}, firstlight_vllm_args: ['--lora-mod', 'b=/b']}",
    "speculation without a method": "{firstlight_model: org/tiny, firstlight_speculative: {num_speculative_tokens: 4}}",
    "draft of the built-in model": "firstlight_speculative: {model: org/draft}",
    "draft of a linked model": "{firstlight_model: org/tiny, firstlight_model_on_host: /mnt/tiny, firstlight_speculative: {model: org/draft}}",
    "no draft": "{firstlight_model: org/tiny, firstlight_speculative: {model: ./none}}",
    "speculation as an argument too": "{firstlight_model: org/tiny, firstlight_speculative: {method: ngram}, firstlight_vllm_args: [--speculative-config.method, ngram]}",
    "speculation by its short options too": "{firstlight_model: org/tiny, firstlight_speculative: {method: ngram}, firstlight_vllm_args: [--spec-method, ngram]}",
    "speculation as a shortened argument too": "{firstlight_model: org/tiny, firstlight_speculative: {method: ngram}, firstlight_vllm_args: ['--speculative={}']}",
    "certificate without TLS": "{firstlight_gateway_tls: false, firstlight_expose: true, firstlight_gateway_certificate: hosts.yml}",
    "no certificate": "firstlight_gateway_certificate: none.pem",
    "metrics at a name": "firstlight_metrics_bind: gpu.example.org",
    "Prometheus for everybody": "firstlight_monitoring_bind: 0.0.0.0",
    "no configuration of Alertmanager": "firstlight_alertmanager_config: none.yml",
    "no days": "firstlight_monitoring_days: 0",
    "source": "firstlight_source: mirror",
    "source of a kind": "firstlight_source: {wheels: hots}",
    "source of no kind": "firstlight_source: {weels: host}",
    "source without a folder": "firstlight_source: {model: path}",
    "interpreter from an index": "firstlight_source: {interpreter: host}",
    "index without an address": "firstlight_source_index: [mirror]",
    "cards": "{firstlight_gpus: [0, 1], firstlight_tensor_parallel: 4}",
    "two slices": "firstlight_gpus: ['0:0', '0:1']",
    "a slice and a GPU": "firstlight_gpus: [1, '0:1']",
    "a slice of a slice": "firstlight_gpus: ['0:1:2']",
    "a model split over a slice": "{firstlight_gpus: ['0:1'], firstlight_tensor_parallel: 2}",
    "a slice of a span": "{firstlight_gpus: ['0:1'], firstlight_span: 2, firstlight_expose: true}",
    "slices by memory": "firstlight_mig: {0: [20gb, 20gb]}",
    "slices of all GPUs": "firstlight_mig: {all: [3g.20gb]}",
    "no model": "firstlight_model: 'two words'",
    "become user": "ansible_become_user: postgres",
    "become method": "ansible_become_method: doas",
    "connection": "ansible_connection: winrm",
}


@pytest.fixture(scope="module")
def wrong_hosts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return what Ansible reads of a host with each wrong setting, by case. One call reads all, as each call takes 0.3 s."""
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "host_vars").mkdir()
    cases = {f"case-{number}": case for number, case in enumerate(WRONG)}
    (folder / "hosts.yml").write_text(
        json.dumps({"all": {"hosts": {name: {"ansible_connection": "local"} for name in cases}}})
    )
    for name, case in cases.items():
        (folder / f"host_vars/{name}.yml").write_text(WRONG[case] + "\n")
    answer = LOADER._read(folder, None)
    return {cases[host["name"]]: {**host, "name": "lone"} for host in answer["hosts"]}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_settings_name_host_variable_value_and_what_is_allowed(
    *,
    make: Make,
    snapshot: SnapshotAssertion,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong_hosts: dict[str, dict[str, Any]],
    case: str,
) -> None:
    answer = {"hosts": [wrong_hosts[case]], "become_password_file": None}
    monkeypatch.setattr(LOADER, "_read", lambda *_: answer)
    message = error_text(make(LOCAL, host_vars__lone_yml=WRONG[case] + "\n"), tmp_path)
    assert "lone" in message
    assert message == snapshot


def test_a_template_that_cannot_be_evaluated_is_refused(
    make: Make, snapshot: SnapshotAssertion, tmp_path: Path
) -> None:
    path = make(LOCAL, host_vars__lone_yml="firstlight_port: '{{ nothing_of_that_name }}'\n")
    assert error_text(path, tmp_path) == snapshot


def test_the_same_mistake_on_many_hosts_is_reported_once(
    make: Make, snapshot: SnapshotAssertion, tmp_path: Path
) -> None:
    path = make(LOCAL, group_vars__gpu_yml="firstlight_prot: 1\nfirstlight_dtype: int3\n")
    assert error_text(path, tmp_path) == snapshot


def test_options_override_settings_and_are_checked_in_the_same_way(make: Make, tmp_path: Path) -> None:
    path = make(LOCAL, group_vars__all_yml="firstlight_port: 8001\nfirstlight_model: org/a@v1.2\n")
    hosts = load(path, overrides={"port": "9000"}).hosts
    assert {(host.settings.port, host.settings.model) for host in hosts} == {(9000, "org/a@v1.2")}
    assert "--set max_model_len: 0 is not allowed" in error_text(path, tmp_path, overrides={"max_model_len": 0})
    shown = error_text(path, tmp_path, overrides={"model": {"token": "hf_secret"}})
    assert "a mapping of token is not allowed" in shown
    assert "hf_secret" not in shown


def test_a_setting_of_the_inventory_can_be_taken_away(make: Make) -> None:
    path = make(LOCAL, group_vars__all_yml="{firstlight_model: org/a, firstlight_model_on_host: /mnt/a}\n")
    assert load(path).hosts[0].settings.model_on_host == "/mnt/a"
    assert load(path, overrides={"model_on_host": None}).hosts[0].settings.model_on_host is None


def test_a_relative_model_folder_is_resolved_from_the_inventory_or_the_working_folder(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(LOCAL, group_vars__all_yml="firstlight_model: ../mine\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.json").write_text("{}")
    assert load(path).hosts[0].settings.model == str(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert load(path, overrides={"model": "./mine"}).hosts[0].settings.model == str(tmp_path / "mine")
    (tmp_path / "mine/config.json").unlink()
    assert "holds no config.json" in error_text(path, tmp_path)


def test_relative_folders_beside_a_model_are_resolved_from_the_inventory_and_staged_with_it(
    make: Make, tmp_path: Path
) -> None:
    settings = (
        "firstlight_model: org/tiny\nfirstlight_lora: {support: ../mine, tone: org/tone@main}\n"
        "firstlight_speculative: {model: ../mine, num_speculative_tokens: 2}\n"
    )
    path = make(LOCAL, group_vars__all_yml=settings)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.json").write_text("{}")
    found = load(path).hosts[0]
    assert found.settings.lora == {"support": str(tmp_path / "mine"), "tone": "org/tone@main"}
    assert found.settings.speculative == {"model": str(tmp_path / "mine"), "num_speculative_tokens": 2}
    for name in ("lora", "speculative"):
        without = found.settings.model_copy(update={name: {}})
        assert found.model_key != found.model_copy(update={"settings": without}).model_key


@pytest.mark.parametrize("model", ["~nobody-here/model", "~\x00"])
def test_a_model_in_an_unknown_home_is_refused_by_its_path(make: Make, tmp_path: Path, model: str) -> None:
    assert f"there is no folder {Path.cwd() / model}" in error_text(make(LOCAL), tmp_path, overrides={"model": model})


def test_a_vault_without_its_password_is_reported(make: Make, tmp_path: Path) -> None:
    vault = "$ANSIBLE_VAULT;1.1;AES256\n" + "3" * 80 + "\n"
    message = error_text(make(LOCAL, group_vars__gpu_yml=vault), tmp_path)
    assert "ANSIBLE_VAULT_PASSWORD_FILE" in message
    assert "Traceback" not in message


def test_a_missing_inventory_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no inventory"):
        load(tmp_path / "none")


def test_passwords_stay_in_memory(make: Make, tmp_path: Path) -> None:
    path = make(LOCAL, group_vars__all_yml="ansible_become_password: hush-hush\nansible_become: true\n")
    inventory = load(path, overrides={})
    connection = inventory.hosts[0].connection
    assert connection.become
    assert connection.become_password is not None
    assert connection.become_password.get_secret_value() == "hush-hush"
    assert "hush-hush" not in inventory.model_dump_json() + repr(inventory) + str(inventory)
    assert not any("hush-hush" in file.read_text() for file in (tmp_path / "cache").rglob("*") if file.is_file())


@pytest.mark.slow
def test_a_source_without_an_answer_is_abandoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "hosts.sh"
    source.write_text("#!/bin/sh\nexec sleep 600\n")
    source.chmod(0o755)
    monkeypatch.setattr(LOADER, "READER_DEADLINE_S", 2.0)
    with pytest.raises(InventoryError, match=r"did not read the inventory .*hosts\.sh within 2 s"):
        load(source)


def test_an_inventory_that_ansible_cannot_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("[gpu\nbroken\n")
    with pytest.raises(InventoryError, match=r"with 'yaml' plugin.*with 'ini' plugin") as caught:
        load(tmp_path / "hosts")
    program, *words = shlex.split((caught.value.hint or "").removeprefix("try it by hand: "))
    assert (os.access(program, os.X_OK), words) == (True, ["-i", f"{tmp_path}/hosts", "--list"])


def test_a_file_of_a_folder_that_is_no_inventory_is_named(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files/ca.pem").write_text("-----BEGIN CERTIFICATE-----\nMIIB of none\n")
    (tmp_path / "hosts").write_text("a ansible_connection=local\n")
    with pytest.raises(InventoryError, match=r"inventory source .*files/ca\.pem") as caught:
        load(tmp_path)
    assert "name the inventory's own file with -i" in (caught.value.hint or "")
    assert names(tmp_path / "hosts") == ["a"]


@pytest.mark.parametrize("name", ["../evil", "bell\\x07"])
def test_a_name_outside_a_runs_folder_is_refused(make: Make, name: str) -> None:
    with pytest.raises(InventoryError, match="names no file of a run"):
        load(make(f'all: {{hosts: {{"{name}": {{ansible_connection: local}}}}}}\n'))


def test_a_name_that_records_would_hide_is_refused(make: Make) -> None:
    with pytest.raises(InventoryError, match=r"host '\[hidden\]': records of a run would hide the name") as caught:
        load(make("all: {hosts: {gpu-1: {}, hf_a1b2c3d4e5f6g7h8: {}}}\n"))
    assert "say with ansible_host" in (caught.value.hint or "")


def test_hosts_whose_names_begin_like_a_key_keep_them(make: Make) -> None:
    hosts = [f"hf-inference-0{number}" for number in (1, 2)] + ["sk-training-h100-1", "sk-inferencecluster01"]
    read = load(make(f"all: {{hosts: {{{', '.join(f'{name}: {{}}' for name in hosts)}}}}}\n"))
    assert sorted(scrub({host.name: [] for host in read.hosts})) == sorted(hosts)


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["1", "5"])
def test_hosts_of_several_groups_have_one_order(tmp_path: Path, seed: str) -> None:
    groups = "[a]\nh1\nh2\nh3\n[b]\nh3\nh1\nh2\n[c:children]\nb\n[all:vars]\nansible_connection=local\n"
    (tmp_path / "hosts.ini").write_text(groups)
    code = "import json, sys; from provision.fleet.inventory import ansible_reader; print(json.dumps([host['name'] for host in ansible_reader.read(sys.argv[1], None)['hosts']]))"
    command = [sys.executable, "-c", code, str(tmp_path / "hosts.ini")]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONHASHSEED": seed}, capture_output=True, check=True)
    assert json.loads(done.stdout) == ["h1", "h2", "h3"]
