"""The folder of an environment: the existing one, or a new one if that is damaged."""

from typing import Any

import pytest

from provision.core.environment_folders import digest_of, folder_for, rebuild_reason
from provision.core.models.facts import Drift, Installed


def host(*environments: str, current: str = "e1", environment: str | None = "e1", **record: Any) -> Installed:
    """Return a host with these complete environments, and a record of the last checks of one of them."""
    last = {"checks": [record], **({"environment": environment} if environment else {})}
    return Installed(prefix="/opt/firstlight", current=current, environments=environments, last_verify=last)


FILES: dict[str, Any] = {"id": "libraries.files", "status": "fail", "evidence": {}}
INJECTED = {"id": "libraries.injected", "status": "fail"}
INSIDE: dict[str, Any] = {**INJECTED, "evidence": {"in the environment": ["stray.pth"]}}
ELSEWHERE: dict[str, Any] = {**INJECTED, "evidence": {"in the environment": []}}


def test_the_environment_of_a_bare_host_is_named_by_the_digest() -> None:
    assert folder_for("e1", None) == "e1"
    assert folder_for("e1", host("e0", current="e0", environment="e0", **FILES)) == "e1"


@pytest.mark.parametrize("record", [{**FILES, "status": "ok"}, {**FILES, "status": "error"}, ELSEWHERE, {}])
def test_an_undamaged_environment_stays_in_its_folder(record: dict[str, Any]) -> None:
    assert folder_for("e1", host("e1", **record)) == "e1"
    assert folder_for("e1", host("e1-3", current="e1-3", environment="e1-3", **record)) == "e1-3"


@pytest.mark.parametrize("record", [FILES, INSIDE])
def test_a_damaged_environment_is_rebuilt_in_the_next_folder(record: dict[str, Any]) -> None:
    assert folder_for("e1", host("e1", **record)) == "e1-2"
    assert folder_for("e1", host("e1", environment=None, **record)) == "e1-2", "a document of an earlier release"
    assert folder_for("e1", host("e1-9", "e0", current="e1-9", environment="e1-9", **record)) == "e1-10"


@pytest.mark.parametrize(
    ("path", "kind", "folder"),
    [
        ("envs/e1/lib/python3.12/site-packages/stray.pth", "hook", "e1-2"),
        ("envs/e1/bin/vllm", "file", "e1-2"),
        ("envs/e1/service.json", "permissions", "e1"),
        ("envs/e1-2/pyvenv.cfg", "file", "e1"),
        ("models/m/config.json", "file", "e1"),
    ],
)
def test_drift_in_the_folder_of_an_environment_is_damage(path: str, kind: Any, folder: str) -> None:
    drift = (Drift(kind=kind, path=f"/opt/firstlight/{path}", text="is another"),)
    assert folder_for("e1", host("e1").model_copy(update={"drift": drift})) == folder


def test_a_rebuilt_environment_that_is_not_live_yet_is_used() -> None:
    """A run was interrupted after the checks of the new environment."""
    assert folder_for("e1", host("e1", "e1-2", environment="e1-2", **{**FILES, "status": "ok"})) == "e1-2"
    assert folder_for("e1", host("e1", "e1-2", environment="e1", **FILES)) == "e1-2"


def test_a_run_gives_the_reason_for_rebuilding_an_environment() -> None:
    assert rebuild_reason("e1-3", host("e1", "e1-2")) == "environment e1-2 is damaged, and is built anew as e1-3"
    assert rebuild_reason("e1-2", host("e1", "e1-2")) is None
    assert rebuild_reason("e2", host("e1")) is None
    assert rebuild_reason("e1", None) is None


def test_rebuilt_environments_have_the_same_digest() -> None:
    assert [digest_of(folder) for folder in ("ab12", "ab12-2", "ab12-10")] == ["ab12"] * 3
