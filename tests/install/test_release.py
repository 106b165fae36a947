"""What an activation writes, records and shows, without a service manager."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.install.modules import run_module


def make_environment(prefix: Path, digest: str) -> None:
    for name in ("bin", "python", "models", "etc", f"envs/{digest}"):
        (prefix / name).mkdir(parents=True, exist_ok=True)
    (prefix / "envs" / digest / ".complete").touch()


def activate(prefix: Path, digest: str = "one", *, unit: str = "[Service]\n", **options: Any) -> dict[str, Any]:
    service = {
        "supervisor": "none",
        "name": "firstlight-vllm.service",
        "unit": unit,
        "unit_path": str(prefix / "units" / "firstlight-vllm.service"),
        "environment": {"HF_HUB_OFFLINE": "1"},
        "api_key": True,
        "digest": "settings",
    }
    return run_module(
        "firstlight_release", prefix=str(prefix), digest=digest, service=service, state={"model": "m"}, **options
    )


def record(prefix: Path, **options: Any) -> dict[str, Any]:
    return run_module("firstlight_state", prefix=str(prefix), **options)


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    make_environment(tmp_path, "one")
    return tmp_path


def test_a_release_is_activated_and_recorded_once(prefix: Path) -> None:
    result = activate(prefix)
    assert (result["changed"], result["restart"], result["former"]) == (True, True, None)
    assert (prefix / "current").readlink() == Path("envs/one")
    assert [Path(path).name for path in record(prefix)["paths"]] == [
        "started", "state.sha256", "state.files", "state.json",
    ]  # fmt: skip
    assert json.loads((prefix / "state.json").read_text()) == {"model": "m"}
    again = activate(prefix)
    assert (again["changed"], again["restart"]) == (False, False)
    assert record(prefix)["changed"] is False


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
    assert "service.json: differs; its content is not shown" in text


def test_a_rollback_activates_the_previous_release_with_its_unit(prefix: Path) -> None:
    make_environment(prefix, "two")
    activate(prefix)
    activate(prefix, "two", unit="[Service]\nNice=5\n")
    assert (prefix / "previous").readlink() == Path("envs/one")
    result = run_module("firstlight_release", prefix=str(prefix), rollback=True)
    assert result["restart"] is True
    assert (prefix / "current").readlink() == Path("envs/one")
    assert (prefix / "units" / "firstlight-vllm.service").read_text() == "[Service]\n"


def test_what_cannot_be_activated_is_refused_with_a_hint(prefix: Path) -> None:
    result = run_module("firstlight_release", prefix=str(prefix), rollback=True)
    assert (result["failed"], result["hint"]) == (True, "nothing was changed")
    result = activate(prefix, "three")
    assert "environment three is not complete" in result["msg"]
    assert "missing: digest, service, state" in run_module("firstlight_release", prefix=str(prefix))["msg"]


def test_environments_that_nothing_needs_are_removed(prefix: Path) -> None:
    make_environment(prefix, "two")
    activate(prefix)
    assert str(prefix / "envs" / "two") in record(prefix, check=True)["paths"]
    assert (prefix / "envs" / "two").exists()
    record(prefix)
    assert not (prefix / "envs" / "two").exists()
    assert (prefix / "envs" / "one").exists()


def test_what_is_served_is_reported(prefix: Path) -> None:
    assert run_module("firstlight_release_info", prefix=str(prefix))["supervisor"] == "none"
    activate(prefix)
    assert run_module("firstlight_release_info", prefix=str(prefix))["name"] == "firstlight-vllm.service"


def test_a_stop_is_recorded_for_this_boot(prefix: Path) -> None:
    assert run_module("firstlight_stop_record", prefix=str(prefix), check=True)["changed"] is True
    path = prefix / "etc" / "stopped.json"
    assert not path.exists()
    run_module("firstlight_stop_record", prefix=str(prefix))
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert json.loads(path.read_text())["boot_id"] == boot_id
