"""changes.jsonl: the changes that a task made to a host."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings
from provision.core.redaction import MASK
from provision.core.run_folder import TEXT_AT_MOST, RunFolder, truncate
from provision.phases.install.host_outcome import describe_change
from provision.phases.install.host_results import install
from provision.phases.install.hosts_file import Target
from provision.phases.install.playbook import PLAYBOOKS
from tests.install.conftest import Site, make_site

pytestmark = pytest.mark.slow


def event(result: dict[str, Any], **data: Any) -> dict[str, Any]:
    known = {"host": "a", "role": "base", "task": "Do it", "task_action": "ansible.builtin.command", "res": result}
    return known | data


def recorded(result: dict[str, Any], kind: str = "runner_on_ok", **data: Any) -> dict[str, Any]:
    """Return what is recorded of a task with this result."""
    found = describe_change(kind, event(result, **data))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("kind", "result"),
    [("runner_on_ok", {"changed": False, "rc": 0}), ("runner_on_skipped", {"changed": True}), ("runner_on_ok", {})],
)
def test_a_task_without_a_change_is_not_recorded(kind: str, result: dict[str, Any]) -> None:
    assert describe_change(kind, event(result)) is None


def test_a_command_is_recorded_with_its_arguments_and_exit_code() -> None:
    told = {"stdout": "it's done\n", "stderr": "warning"}
    result = {"changed": True, "rc": 0, "cmd": ["sh", "-c", "echo it's done"], **told}
    found = recorded(result, duration=1.25)
    assert found["command"] == """sh -c 'echo it'"'"'s done'"""
    assert (found["changed"], found["exit_code"], found["seconds"]) == (True, 0, 1.25)
    assert found["output"] == "it's done\nwarning"


def test_a_script_is_recorded_by_its_beginning() -> None:
    script = "# Builds the module.\n" + "true\n" * 200
    found = recorded({"changed": True, "rc": 0, "cmd": ["sh", "-c", script]})
    assert found["command"].startswith("sh -c '# Builds the module.\n")
    assert found["command"].endswith("... (1021 characters)'")


@pytest.mark.parametrize("kind", ["runner_on_failed", "runner_on_unreachable"])
def test_a_failed_task_is_recorded_as_a_possible_change(kind: str) -> None:
    found = recorded({"msg": "no space left", "rc": 28, "changed": False}, kind)
    assert (found["changed"], found["exit_code"], found["output"]) == (None, 28, "no space left")


def test_a_module_is_recorded_with_its_arguments() -> None:
    arguments = {"name": "firstlight-vllm.service", "state": "restarted", "enabled": True, "masked": None}
    found = recorded({"changed": True, "invocation": {"module_args": arguments}})
    assert found["command"] == "name=firstlight-vllm.service state=restarted enabled=True"
    assert found["exit_code"] is None


def test_a_raw_task_is_recorded_with_its_place_in_the_role() -> None:
    path = f"{PLAYBOOKS}/roles/uninstall/tasks/10_remove.yml:3"
    task = {"task": "Remove service, environments, account and folders", "task_action": "ansible.builtin.raw"}
    found = recorded({"changed": True, "rc": 0}, **task, task_path=path)
    assert found["command"] == ""
    assert found["source"] == "playbooks/roles/uninstall/tasks/10_remove.yml:3"


def test_of_a_loop_only_iterations_with_changes_are_recorded() -> None:
    turns = [
        {"changed": True, "rc": 0, "cmd": ["apt-mark", "hold", "a"], "stdout": "a set on hold."},
        {"changed": False, "rc": 0, "cmd": ["apt-mark", "hold", "b"], "stdout": "b was on hold."},
        {"failed": True, "rc": 100, "cmd": ["apt-mark", "hold", "c"], "stderr": "E: no package c"},
    ]
    found = recorded({"changed": True, "results": turns, "msg": "One or more items failed"}, "runner_on_failed")
    assert found["command"] == "apt-mark hold a\napt-mark hold c"
    assert found["output"] == "a set on hold.\nE: no package c"
    assert (found["exit_code"], found["changed"]) == (100, None)


def test_a_result_that_ansible_hides_is_recorded_as_hidden() -> None:
    found = recorded({"censored": "the output has been hidden"})
    assert (found["command"], found["output"], found["changed"]) == (MASK, MASK, None)


def test_the_beginning_and_the_end_of_a_long_text_are_recorded() -> None:
    text = truncate("begin" + "x" * 3 * TEXT_AT_MOST + "end")
    assert text.startswith("begin")
    assert text.endswith("end")
    assert f"[{2 * TEXT_AT_MOST + 8} characters left out]" in text
    assert truncate("short") == "short"


def test_a_secret_at_the_cut_is_masked_first() -> None:
    secret = "Zq7Rk2Lw9Xv4Bn6T" * 4
    head = "x" * (TEXT_AT_MOST // 4 - 20)
    assert "Zq7Rk2Lw" not in truncate(f"{head} token={secret} " + "y" * 2 * TEXT_AT_MOST)


def lines(run: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.path("changes.jsonl").read_text(encoding="utf-8").splitlines()]


@dataclass
class Watched:
    """An installation of a bare host, with secrets where the product meets them."""

    site: Site
    run: RunFolder
    kept: dict[str, int]
    """Recorded changes at the beginning of each task."""


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    site = make_site(tmp_path_factory.mktemp("site"))
    site.send()
    kept: dict[str, int] = {}

    def watch(_: str, task: str) -> None:
        path = Path(site.folder / "logs" / "latest" / "changes.jsonl")
        kept[task] = len(path.read_text().splitlines()) if path.exists() else 0

    connection = Connection(kind="local", become_password=SecretStr("sudo-s3cret"))
    host = Host(name=site.name, connection=connection, settings=Settings())
    run = site.run()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", "hf_secret_of_the_caller")
        results = install(run, [Target(host, site.variables)], playbook="install", progress=watch)
    assert (results[site.name].status, results[site.name].changed) == ("ok", True), results
    return Watched(site, run, kept)


def test_an_installation_is_recorded_and_one_without_changes_is_not(watched: Watched) -> None:
    site = watched.site
    found = lines(watched.run)
    assert [(line["role"], line["task"], line["exit_code"]) for line in found] == [
        ("base", "Install missing operating system packages", 0),
        ("base", "Create folders and write tools", None),
        ("environment", "Build the environment", None),
        ("model", "Create the built-in model", 0),
    ]
    header = json.loads(watched.run.path("run.json").read_text())
    for line in found:
        assert line["by"] == {"user": header["user"], "controller": os.uname().nodename}
        assert (line["host"], line["playbook"], line["how"], line["changed"]) == (site.name, "install", "ansible", True)
        assert bool(line["command"]) is (line["module"] != "ansible.builtin.raw")
        assert line["source"].startswith("playbooks/roles/")
    assert "alpha==1.0" in found[2]["output"]
    assert not site.play("install").changed
    assert not site.latest.path("changes.jsonl").exists()


def test_each_change_is_on_disk_when_its_task_has_ended(watched: Watched) -> None:
    """The record exists even if the run is killed in its next task."""
    assert watched.kept["Build the environment"] == 2
    assert watched.kept["Create the built-in model"] == 3
    assert watched.kept["Verify that the model is there"] == 4


def test_secrets_are_not_written_to_the_run_folder(watched: Watched) -> None:
    texts = {path: path.read_text() for path in watched.run.folder.rglob("*") if path.is_file()}
    assert watched.run.path("install/install.yml") in texts
    for path, text in texts.items():
        assert "sudo-s3cret" not in text, path
        assert "hf_secret_of_the_caller" not in text, path
