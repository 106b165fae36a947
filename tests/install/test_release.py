"""What a switch to a release writes, records and reports, without a service manager."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.install.modules import run_module
from tests.install.scripts import script_text
from tests.pipeline.test_up_to_date import make_desired

pytestmark = pytest.mark.slow


def make_environment(prefix: Path, folder: str) -> None:
    for name in ("bin", "python", "models", "etc", f"envs/{folder}"):
        (prefix / name).mkdir(parents=True, exist_ok=True)
    (prefix / "envs" / folder / ".complete").touch()


def make_model(prefix: Path, name: str) -> None:
    folder = prefix / "models" / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder.parent / f"{name}.manifest.txt").write_text("")


def activate(
    prefix: Path,
    folder: str = "one",
    *,
    unit: str = "[Service]\n",
    model: str | None = None,
    supervisor: str = "test",
    start_cache: str = "",
    address: str | None = None,
    unit_name: str = "firstlight-vllm.service",
    api_key: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """Switch to a release that differs by its environment, unit and model. No supervisor is called `test`, so none is used."""
    service = {
        "supervisor": supervisor,
        "name": "firstlight-vllm.service",
        "unit": unit,
        "unit_path": str(prefix / "units" / unit_name),
        "environment": {"VLLM_CACHE_ROOT": f"{prefix}/cache/start-{start_cache}/vllm"} if start_cache else {},
        "api_key": api_key,
        "digest": f"of {unit}{start_cache}",
    }
    record: dict[str, Any] = {
        "format": 1,
        "environment": folder.partition("-")[0],
        "model": {"folder": model} if model else None,
    }
    if address is not None:
        record["address"] = address
    readiness = {"model_folder": str(prefix / "models" / model)} if model else None
    return run_module(
        "firstlight_release",
        prefix=str(prefix),
        environment=folder,
        release=record,
        service=service,
        state={"environment": folder, "readiness": readiness},
        **options,
    )


def rollback(prefix: Path, kind: str = "previous", **options: Any) -> dict[str, Any]:
    return run_module("firstlight_release", prefix=str(prefix), rollback=kind, **options)


def record(prefix: Path, **options: Any) -> dict[str, Any]:
    return run_module("firstlight_state", prefix=str(prefix), **options)


def prove(prefix: Path) -> None:
    """Write the proof of the active release as ready.pyz does."""
    (prefix / "verify").mkdir(exist_ok=True)
    (prefix / "verify" / "ready.json").write_text(json.dumps({"ready": True, "release": live(prefix)}))


def served(prefix: Path, folder: str = "one", **options: Any) -> str:
    """Switch to a release that is recorded and proven; return its digest."""
    activate(prefix, folder, **options)
    record(prefix)
    prove(prefix)
    record(prefix)
    return live(prefix)


def live(prefix: Path, name: str = "current") -> str:
    target = (prefix / name).readlink()
    assert (target.parts[0], target.name) == ("releases", "environment")
    return target.parts[1]


def unit_of(prefix: Path) -> str:
    return (prefix / "units" / "firstlight-vllm.service").read_text()


def releases_of(prefix: Path) -> set[str]:
    return {path.name for path in (prefix / "releases").iterdir() if path.is_dir()}


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    make_environment(tmp_path, "one")
    return tmp_path


def test_a_release_is_activated_and_recorded_once(prefix: Path) -> None:
    result = activate(prefix)
    assert (result["changed"], result["restart"], result["former"]) == (True, True, None)
    assert live(prefix) == result["release"]
    assert (prefix / "current").resolve() == prefix / "envs" / "one"
    assert not (prefix / "previous").is_symlink()
    assert [Path(path).name for path in record(prefix)["paths"]] == [
        "started", "state.sha256", "state.secrets", "state.files", "state.json",
    ]  # fmt: skip
    assert json.loads((prefix / "state.json").read_text())["release"] == result["release"]
    again = activate(prefix)
    assert (again["changed"], again["restart"]) == (False, False)
    assert record(prefix)["changed"] is False


def test_other_names_of_a_model_s_file_may_come_and_go(prefix: Path) -> None:
    """It may be one with that of the controller's cache: a link more or less changes its change time."""
    activate(prefix)
    weights, tool = prefix / "models" / "m" / "weights", prefix / "bin" / "tool"
    for path in (weights, tool):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(2 << 20))
    record(prefix)
    lines = [line.split(" ", 6) for line in (prefix / "state.files").read_text().splitlines()]
    changed = {line[6]: line[5] for line in lines}
    assert (changed[str(weights)], changed[str(tool)].isdigit()) == ("-", True)


def test_a_release_is_named_by_the_content_of_its_record(prefix: Path) -> None:
    digest = activate(prefix)["release"]
    path = prefix / "releases" / digest / "release.json"
    assert hashlib.sha256(path.read_bytes()).hexdigest().startswith(digest)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o755
    assert activate(prefix, unit="[Service]\nNice=5\n")["release"] != digest
    assert activate(prefix)["release"] == digest


def test_another_address_of_the_host_changes_its_service_and_not_the_name_of_its_release(prefix: Path) -> None:
    def at(address: str) -> str:
        return served(prefix, unit=f"ExecStart=--host {address} --to 127.0.0.77\n", address=address)

    assert at("127.0.0.7") == at("127.0.0.8")
    assert "--host 127.0.0.8 --to 127.0.0.77\n" in unit_of(prefix)
    assert not activate(prefix, unit=unit_of(prefix), address="127.0.0.8")["changed"]


@pytest.mark.parametrize("lacking", ["192.0.2.1", "2001:db8::1"])
def test_an_address_that_the_host_does_not_have_leaves_the_release_as_it_was_proven(prefix: Path, lacking: str) -> None:
    digest = served(prefix, unit="--host 127.0.0.7", address="127.0.0.7")
    refused = activate(prefix, unit=f"--host {lacking}", address=lacking)
    assert refused["msg"] == f"the host has no address {lacking}"
    assert refused["hint"] == "nothing was changed; fix firstlight_bind"
    assert (live(prefix), unit_of(prefix)) == (digest, "--host 127.0.0.7")
    assert (prefix / "state.json").exists()
    assert not activate(prefix, unit="--host 127.0.0.7", address="127.0.0.7")["changed"]


def test_the_host_names_a_release_as_the_controller_has_planned_it(tmp_path: Path) -> None:
    planned = make_desired(tmp_path, bind="192.0.2.1", expose=True).ansible_vars()
    parts = {name: planned[f"firstlight_{name}"] for name in ("release", "service", "state")}
    result = run_module("firstlight_release", prefix=str(tmp_path), environment="e1", check=True, **parts)
    assert result["release"] == planned["firstlight_state"]["release"]


def test_a_state_that_names_another_release_is_refused(prefix: Path) -> None:
    service = {"supervisor": "none", "name": "", "api_key": False, "digest": "d"}
    result = run_module(
        "firstlight_release",
        prefix=str(prefix),
        environment="one",
        release={"environment": "one"},
        service=service,
        state={"release": "aa"},
    )
    assert "the state names release aa" in result["msg"]
    assert not (prefix / "releases").exists()


def test_check_mode_reports_and_writes_nothing(prefix: Path) -> None:
    before = sorted(prefix.rglob("*"))
    result = activate(prefix, check=True)
    assert str(prefix / "current") in result["paths"]
    assert sorted(prefix.rglob("*")) == before
    activate(prefix)
    before = sorted(prefix.rglob("*"))
    assert str(prefix / "state.json") in record(prefix, check=True)["paths"]
    assert sorted(prefix.rglob("*")) == before


def test_the_difference_shows_the_unit_and_no_secret(prefix: Path) -> None:
    activate(prefix)
    key = (prefix / "etc" / "service.env").read_text().partition("VLLM_API_KEY=")[2].strip()
    result = activate(prefix, unit="[Service]\nNice=5\n", check=True, diff=True)
    text = json.dumps(result)
    assert "Nice=5" in text
    assert key
    assert key not in text
    assert "release.json: differs; its content is not shown" in text


def variables(prefix: Path) -> list[str]:
    return (prefix / "etc" / "service.env").read_text().splitlines()


def test_a_key_stays_while_the_service_asks_for_none(prefix: Path) -> None:
    activate(prefix)
    [line] = variables(prefix)
    assert line.startswith("VLLM_API_KEY=")
    activate(prefix, api_key=False)
    assert variables(prefix) == [f"#{line}"]
    activate(prefix, supervisor="none", api_key=False)
    activate(prefix)
    assert variables(prefix) == [line]
    (prefix / "etc" / "service.env").write_text(f"#{line}\nVLLM_API_KEY=chosen\n")
    activate(prefix)
    assert variables(prefix) == ["VLLM_API_KEY=chosen"], "a key that counts comes before one that was kept"


@pytest.mark.parametrize("written", ["abc-1", '"abc-1"', "'abc-1'"])
def test_a_key_that_was_written_by_hand_stays_without_its_quotes(prefix: Path, written: str) -> None:
    activate(prefix)
    (prefix / "etc" / "service.env").write_text(f"VLLM_API_KEY={written}\n")
    activate(prefix, unit="[Service]\nNice=5\n")
    assert variables(prefix) == ["VLLM_API_KEY=abc-1"]


def test_a_key_that_not_all_programs_read_alike_is_refused(prefix: Path) -> None:
    activate(prefix)
    (prefix / "etc" / "service.env").write_text('VLLM_API_KEY="a b"\n')
    result = activate(prefix, unit="[Service]\nNice=5\n")
    assert "VLLM_API_KEY in etc/service.env holds blanks or quotes" in json.dumps(result)
    assert variables(prefix) == ['VLLM_API_KEY="a b"']


def test_a_changed_setting_is_rolled_back_in_the_same_environment(prefix: Path) -> None:
    first = served(prefix)
    second = served(prefix, unit="[Service]\nNice=5\n")
    assert (live(prefix), live(prefix, "previous")) == (second, first)
    result = rollback(prefix)
    assert (result["restart"], result["release"]) == (True, first)
    assert unit_of(prefix) == "[Service]\n"
    assert (live(prefix), live(prefix, "previous")) == (first, second)
    record(prefix)
    prove(prefix)
    assert rollback(prefix)["release"] == second
    assert unit_of(prefix) == "[Service]\nNice=5\n"


def test_start_caches_of_the_current_and_the_previous_release_stay(prefix: Path) -> None:
    (prefix / "cache/huggingface").mkdir(parents=True)
    (prefix / "elsewhere").mkdir()
    (prefix / "cache/start-f").symlink_to(prefix / "elsewhere")
    for number in "abc":
        (prefix / f"cache/start-{number}").mkdir()
        (prefix / f"cache/.start-{number}.new").mkdir()
        served(prefix, start_cache=number)
    left = {path.name for path in (prefix / "cache").iterdir()}
    assert left == {"huggingface", "start-b", "start-c", "start-f"}
    rollback(prefix)
    record(prefix)
    assert {path.name for path in (prefix / "cache").iterdir()} == left


def test_a_rollback_brings_back_the_former_image_which_stays_until_no_release_needs_it(
    prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for podman, which lists the images that it removes."""
    (prefix / "podman").write_text(f'#!/bin/sh\necho "$*" >>{prefix}/asked\n')
    (prefix / "podman").chmod(0o755)
    monkeypatch.setenv("PATH", f"{prefix}:{os.environ['PATH']}")
    loaded = prefix / "etc" / "images"
    loaded.touch()

    def serve(image: str) -> str:
        loaded.write_text(f"{loaded.read_text()}{image}\n")
        return served(prefix, unit=f"[Container]\nImage={image}\n")

    first, second, third = (letter * 64 for letter in "abc")
    release = serve(first)
    serve(second)
    assert loaded.read_text().split() == [first, second]
    assert rollback(prefix)["release"] == release
    assert f"Image={first}\n" in unit_of(prefix)
    prove(prefix)
    record(prefix)
    serve(third)
    assert loaded.read_text().split() == [first, third]
    asked = (prefix / "asked").read_text().splitlines()
    assert [line for line in asked if line.startswith("rmi")] == [f"rmi {second}"]


def test_an_image_of_another_service_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "podman").write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/asked\n')
    (tmp_path / "podman").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    chat, small = tmp_path / "fl@chat", tmp_path / "fl@small"
    for prefix in (chat, small):
        make_environment(prefix, "one")
    shared, other = "a" * 64, "b" * 64
    (chat / "etc/images").write_text(f"{shared}\n{other}\n")
    activate(small, unit=f"[Container]\nImage={shared}\n")
    served(chat)
    assert (chat / "etc/images").read_text() == f"{shared}\n"
    asked = (tmp_path / "asked").read_text().splitlines()
    assert [line for line in asked if line.startswith("rmi")] == [f"rmi {other}"]


def test_a_release_without_its_image_is_not_switched_to(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (prefix / "podman").write_text(f"#!/bin/sh\n[ -e {prefix}/loaded ]\n")
    (prefix / "podman").chmod(0o755)
    (prefix / "loaded").touch()
    monkeypatch.setenv("PATH", f"{prefix}:{os.environ['PATH']}")
    served(prefix, unit=f"[Container]\nImage={'a' * 64}\n")
    second = served(prefix)
    (prefix / "loaded").unlink()
    assert f"its image {'a' * 64} is not in podman" in rollback(prefix)["msg"]
    assert f"its image {'b' * 64} is not in podman" in activate(prefix, unit=f"[Container]\nImage={'b' * 64}\n")["msg"]
    assert live(prefix) == second


def test_an_unknown_release_is_refused_by_name(prefix: Path) -> None:
    result = rollback(prefix)
    assert (result["failed"], result["hint"]) == (True, "nothing was changed")
    first = served(prefix)
    before = sorted(prefix.rglob("*"))
    result = rollback(prefix, to="00112233445566aa")
    assert result["msg"] == f"release 00112233445566aa is not on this host; there are: {first}"
    assert sorted(prefix.rglob("*")) == before


def test_an_incomplete_release_is_not_activated(prefix: Path) -> None:
    make_model(prefix, "llama-1")
    first = served(prefix, model="llama-1")
    second = served(prefix, unit="[Service]\nNice=5\n", model="llama-1")
    (prefix / "models" / "llama-1" / "config.json").unlink()
    assert f"its model {prefix}/models/llama-1 is not there" in rollback(prefix)["msg"]
    assert f"its model {prefix}/models/llama-2 is not there" in activate(prefix, model="llama-2")["msg"]
    (prefix / "envs" / "one" / ".complete").unlink()
    assert f"its environment {prefix}/envs/one is not there" in rollback(prefix, to=first)["msg"]
    (prefix / "releases" / first / "release.json").write_text("{}\n")
    assert f"releases/{first}/release.json is missing or damaged" in rollback(prefix, to=first)["msg"]
    assert (live(prefix), unit_of(prefix)) == (second, "[Service]\nNice=5\n")
    assert f"its environment {prefix}/envs/three is not there" in activate(prefix, "three")["msg"]
    assert live(prefix) == second


def test_an_unproven_release_is_left_for_its_predecessor_which_keeps_its_own_predecessor(prefix: Path) -> None:
    oldest = served(prefix, unit="[Service]\nNice=1\n")
    former = served(prefix, unit="[Service]\nNice=2\n")
    bad = activate(prefix, unit="[Service]\nNice=3\n")["release"]
    record(prefix)
    assert releases_of(prefix) == {oldest, former, bad}
    result = rollback(prefix, "unproven")
    assert (result["release"], result["restart"]) == (former, True)
    assert (live(prefix), live(prefix, "previous")) == (former, oldest)
    record(prefix)
    prove(prefix)
    assert releases_of(prefix) == {oldest, former, bad}, "the next try needs no files"
    assert rollback(prefix, "unproven")["release"] is None, "there is no release to return from"
    assert rollback(prefix)["release"] == oldest


def test_two_bad_releases_in_a_row_keep_the_proven_one(prefix: Path) -> None:
    former = served(prefix)
    for number in (3, 4):
        activate(prefix, unit=f"[Service]\nNice={number}\n")
        record(prefix)
    assert live(prefix, "previous") == former
    assert rollback(prefix)["release"] == former
    assert unit_of(prefix) == "[Service]\n"


@pytest.mark.parametrize("first", ["test", "none"])
def test_without_a_proven_release_there_is_no_return(prefix: Path, first: str) -> None:
    activate(prefix, unit="[Service]\nNice=1\n", supervisor=first)
    record(prefix)
    bad = activate(prefix)["release"]
    record(prefix)
    result = rollback(prefix, "unproven")
    assert (result["changed"], result["release"], live(prefix)) == (False, None, bad)


def test_a_user_rolls_back_between_unproven_releases(prefix: Path) -> None:
    """As after playbooks that a user ran by hand."""
    digests = []
    for number in (1, 2):
        digests.append(activate(prefix, unit=f"[Service]\nNice={number}\n")["release"])
        record(prefix)
    for number, digest in ((1, digests[0]), (2, digests[1])):
        assert rollback(prefix)["release"] == digest
        assert unit_of(prefix) == f"[Service]\nNice={number}\n"
        record(prefix)
    assert live(prefix, "previous") == digests[0]


def test_an_interrupted_switch_is_continued_or_undone(prefix: Path) -> None:
    """The switch was killed after the unit was written and before `current` was switched."""
    former = served(prefix)
    bad = activate(prefix, unit="[Service]\nNice=5\n")["release"]
    (prefix / "current").unlink()
    (prefix / "current").symlink_to(f"releases/{former}/environment")
    (prefix / "previous").unlink()
    assert activate(prefix, unit="[Service]\nNice=5\n", check=True)["changed"] is True
    assert rollback(prefix)["release"] == former
    assert unit_of(prefix) == "[Service]\n"
    assert not (prefix / "previous").exists()
    assert activate(prefix, unit="[Service]\nNice=5\n")["release"] == bad
    assert (live(prefix), live(prefix, "previous")) == (bad, former)


def test_a_supervisord_that_a_signal_has_stopped_is_restarted(prefix: Path) -> None:
    activate(prefix, supervisor="supervisor")
    record(prefix)
    (prefix / "logs").mkdir()
    with subprocess.Popen(["sleep", "600"]) as process:
        (prefix / "logs/supervisord.pid").write_text(f"{process.pid}\n")
        assert activate(prefix, supervisor="supervisor")["restart"] is False
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        assert activate(prefix, supervisor="supervisor")["restart"] is True
        process.kill()


def test_a_former_service_is_named_until_the_new_one_is_recorded(prefix: Path) -> None:
    """The first run was killed after the switch, before it stopped the former service."""
    served(prefix)
    for _ in range(2):
        assert activate(prefix, supervisor="another")["former"]["supervisor"] == "test"
    corrected = "[Service]\nNice=5\n"
    assert activate(prefix, supervisor="another", unit=corrected)["former"]["supervisor"] == "test"
    assert activate(prefix, check=True)["former"]["supervisor"] == "another"
    record(prefix)
    assert activate(prefix, supervisor="another", unit=corrected)["former"] is None


def test_a_rebuilt_environment_replaces_the_damaged_one_in_every_release(prefix: Path) -> None:
    first = served(prefix, unit="[Service]\nNice=1\n")
    second = served(prefix)
    make_environment(prefix, "one-2")
    result = activate(prefix, "one-2")
    assert (result["release"], result["restart"], live(prefix, "previous")) == (second, True, first)
    record(prefix)
    assert [path.name for path in (prefix / "envs").iterdir()] == ["one-2"]
    kept = json.loads((prefix / "releases" / first / "state.json").read_text())
    assert kept["environment"] == "one-2", "after a rollback the next run has nothing to change"
    assert rollback(prefix)["release"] == first
    assert (prefix / "current").resolve() == prefix / "envs" / "one-2"


def test_files_that_no_release_needs_are_removed_once_the_new_one_is_proven(prefix: Path) -> None:
    digests = []
    for name in ("one", "two", "three"):
        make_environment(prefix, name)
        make_model(prefix, f"{name}-model")
        (prefix / "models" / "of-somebody-else").mkdir(exist_ok=True)
        activate(prefix, name, model=f"{name}-model")
        record(prefix)
        digests.append(live(prefix))
        if name != "three":
            prove(prefix)
    assert releases_of(prefix) == set(digests)
    assert (prefix / "envs" / "one").exists()
    prove(prefix)
    assert str(prefix / "envs" / "one") in record(prefix, check=True)["paths"]
    assert (prefix / "envs" / "one").exists()
    record(prefix)
    assert releases_of(prefix) == set(digests[1:])
    assert sorted(path.name for path in (prefix / "envs").iterdir()) == ["three", "two"]
    assert sorted(path.name for path in (prefix / "models").iterdir()) == [
        "of-somebody-else", "three-model", "three-model.manifest.txt", "two-model", "two-model.manifest.txt",
    ]  # fmt: skip


def test_units_of_earlier_releases_are_removed_and_those_of_no_release_stay(prefix: Path) -> None:
    former, gateway = (prefix / "units" / name for name in ("former.service", "firstlight-gateway.service"))
    served(prefix, unit_name=former.name)
    gateway.write_text("[Service]\n")
    listed = prefix / "etc" / "units"
    listed.write_text(f"{listed.read_text()}{gateway}\n")
    served(prefix)
    assert (former.exists(), gateway.exists()) == (False, True)
    assert listed.read_text().split() == [str(gateway), str(prefix / "units" / "firstlight-vllm.service")]


def test_the_served_release_is_reported(prefix: Path) -> None:
    assert run_module("firstlight_release", prefix=str(prefix))["supervisor"] == "none"
    activate(prefix)
    assert run_module("firstlight_release", prefix=str(prefix))["name"] == "firstlight-vllm.service"


def test_a_stop_is_recorded_for_this_boot() -> None:
    command = [sys.executable, "-I", "-c", script_text("service/files/stop_record.py")]
    record = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert record.keys() == {"at", "boot_id", "monotonic"}
    assert record["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert 0 < record["monotonic"] <= time.monotonic()
