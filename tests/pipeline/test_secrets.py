"""Secrets are placed wherever users may have them, and searched for in everything that users may read."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from provision.core.redaction import MASK
from tests.pipeline.command_lines import firstlight, inventory_of

pytestmark = pytest.mark.slow

PLANTED = {
    "become": "Vx3-become-9Qm2",
    "ssh": "Vx3-ssh-4Tz8",
    "variable": "Vx3-variable-7Lp5",
    "environment": "hf_Vx3Environment2Rk9Wd",
    "token file": "Vx3-hub-6Jn1",
}


def inventory(folder: Path, **variables: Any) -> Path:
    """An inventory with this machine as its only host and a secret in every variable that may have one."""
    (folder / "token").write_text(PLANTED["token file"] + "\n", encoding="utf-8")
    host = {
        "ansible_connection": "local",
        "ansible_become_password": PLANTED["become"],
        "ansible_password": PLANTED["ssh"],
        "deploy_api_token": PLANTED["variable"],
        "firstlight_hf_token_file": str(folder / "token"),
        "firstlight_prefix": str(folder / "prefix"),
        **variables,
    }
    return inventory_of(folder, here=host)


def in_secret(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command with a secret in a variable."""
    return firstlight(*words, logs=folder, FIRSTLIGHT_CACHE=str(folder / "cache"), HF_TOKEN=PLANTED["environment"])


def shown(done: subprocess.CompletedProcess[str], folder: Path) -> dict[str, str]:
    """Return the output of a command and every file that it left, except the user's own."""
    own = {folder / "hosts.yml", folder / "token"}
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and path not in own]
    texts = {str(path): path.read_bytes().decode(errors="replace") for path in files}
    return {"stdout": done.stdout, "stderr": done.stderr, **texts}


def assert_nowhere(texts: dict[str, str]) -> None:
    for where, text in texts.items():
        for kind, secret in PLANTED.items():
            assert secret not in text, f"the {kind} secret is in {where}"


@pytest.mark.parametrize(
    "command", [("probe", "--json"), ("plan", "--explain"), ("status", "--json")], ids=lambda command: command[0]
)
def test_a_command_shows_no_secret(command: tuple[str, ...], tmp_path: Path) -> None:
    done = in_secret(tmp_path, *command, "-i", str(inventory(tmp_path)))
    assert done.returncode in (0, 4), done.stderr
    texts = shown(done, tmp_path)
    assert any(name.endswith("inventory.json") for name in texts)
    assert_nowhere(texts)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"firstlight_env": {"HF_TOKEN": PLANTED["variable"]}}, "HF_TOKEN looks like a secret"),
        ({"firstlight_env": {"NOTE": f"password={PLANTED['variable']}"}}, "NOTE looks like a secret"),
        ({"firstlight_vllm_args": ["--api-key", PLANTED["variable"]]}, "'--api-key' would put a secret"),
        ({"firstlight_vllm_args": [f"--api-key={PLANTED['variable']}"]}, "'--api-key' would put a secret"),
        ({"firstlight_vllm_args": [f"--hf-overrides=token={PLANTED['environment']}"]}, MASK),
    ],
)
def test_a_setting_that_would_show_a_secret_is_refused_without_showing_it(
    variables: dict[str, Any], message: str, tmp_path: Path
) -> None:
    done = in_secret(tmp_path, "plan", "-i", str(inventory(tmp_path, **variables)))
    assert done.returncode == 2, done.stdout
    assert message in done.stderr
    assert_nowhere(shown(done, tmp_path))
