"""An installation on a real host (this machine, a prefix of its own), by real Ansible."""

import json
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from provision.core.files import write_atomically
from provision.phases.install.hosts_file import Target, render
from tests.install.conftest import Site, newer_wheels
from tests.install.modules import PLAYBOOKS
from tests.install.scripts import run_ansible
from tests.install.wheels import build_wheel

pytestmark = pytest.mark.slow


def by_hand(site: Site, *options: str) -> str:
    """Run ansible-playbook by hand on an inventory of the host; return its statistics of the host."""
    path = site.latest.path("install/hosts.yml")
    write_atomically(path, render([Target(site.host(), site.variables)], path=str(path)))
    words: tuple[str | Path, ...] = ("-i", path, PLAYBOOKS / "site.yml", *options)
    done = run_ansible("ansible-playbook", *words, HOME=str(site.folder))
    recap = [line for line in done.stdout.splitlines() if line.startswith(site.name)]
    assert done.returncode == 0, done.stdout + done.stderr
    return recap[-1]


def key_of(site: Site) -> str:
    lines = (site.prefix / "etc" / "service.env").read_text().splitlines()
    return next(line for line in lines if line.startswith("VLLM_API_KEY="))


def test_a_bare_host_gets_the_whole_plan(installed: Site) -> None:
    assert (installed.prefix / "current").resolve() == installed.environment
    assert json.loads((installed.prefix / "state.json").read_text()) == installed.state()
    marker = json.loads((installed.environment / ".complete").read_text())
    assert marker["digest"] == installed.environment.name
    assert (installed.environment / "lock.txt").read_text() == installed.variables["firstlight_environment"]["lock"]
    assert json.loads((installed.environment / "stack.json").read_text())["note"] == "{{ not a template }}"
    for name, source in installed.variables["firstlight_tools"].items():
        assert (installed.prefix / "bin" / name).read_bytes() == Path(source).read_bytes()
    service = installed.variables["firstlight_service"]
    assert Path(service["unit_path"]).read_text() == service["unit"]
    assert f"{installed.name}: Create folders and write tools" in installed.progress
    assert list(installed.incoming.glob("*.whl")) == [], "wheels would use the space a second time"


def test_the_environment_has_the_versions_of_the_lock(installed: Site) -> None:
    python = installed.prefix / "current" / "bin" / "python"
    program = "import alpha, beta; print(alpha.VERSION, beta.VERSION)"
    output = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
    assert output.stdout == "1.0 2.1\n"


def test_service_env_is_private_and_has_the_same_values_in_a_shell(installed: Site) -> None:
    path = installed.prefix / "etc" / "service.env"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    program = f'. {path}; printf "%s|%s" "$GREETING" "$HF_HUB_OFFLINE"'
    output = subprocess.run(["sh", "-c", program], capture_output=True, text=True, check=True)
    assert output.stdout == 'a "quoted" $value|1'
    assert len(key_of(installed)) > len("VLLM_API_KEY=") + 32


def test_the_key_is_only_in_service_env(installed: Site) -> None:
    key = key_of(installed).partition("=")[2]
    holders = [
        path
        for path in installed.folder.rglob("*")
        if path.is_file() and not path.is_symlink() and key.encode() in path.read_bytes()
    ]
    assert holders == [installed.prefix / "etc" / "service.env"]


def test_a_second_run_changes_nothing_and_keeps_the_key(installed: Site) -> None:
    key = key_of(installed)
    result = installed.play()
    assert (result.status, result.changed) == ("ok", False), installed.latest.path("install/tasks.jsonl").read_text()
    assert key_of(installed) == key


def test_the_playbook_run_by_hand_changes_nothing(installed: Site) -> None:
    assert "changed=0" in by_hand(installed)
    assert "changed=0" in by_hand(installed, "--check")


def test_check_mode_predicts_changes_and_makes_none(site: Site) -> None:
    site.send()
    site.latest = site.run()
    before = sorted(site.prefix.parent.rglob("*"))
    assert "changed=0" not in by_hand(site, "--check")
    assert sorted(site.prefix.parent.rglob("*")) == before
    assert not site.prefix.exists()


def test_a_changed_unit_is_found_by_its_checksum_and_repaired(installed: Site) -> None:
    check = ["sha256sum", "--quiet", "-c", str(installed.prefix / "state.sha256")]
    assert subprocess.run(check, check=False).returncode == 0
    unit = Path(installed.variables["firstlight_service"]["unit_path"])
    unit.write_text("[Service]\nExecStart=/bin/false\n")
    assert subprocess.run(check, check=False, capture_output=True).returncode == 1
    result = installed.play()
    assert (result.status, result.changed) == ("ok", True), result
    assert unit.read_text() == installed.variables["firstlight_service"]["unit"]
    assert subprocess.run(check, check=False).returncode == 0


def test_a_wheel_with_another_hash_is_refused_and_nothing_goes_live(installed: Site) -> None:
    live, wheels, state = (installed.prefix / "current").readlink(), installed.wheels, installed.state()
    installed.use_wheels(newer_wheels(installed))
    installed.send()
    other = installed.folder / "other"
    other.mkdir()
    shutil.copy(build_wheel(other, "alpha", "1.1", {"alpha/__init__.py": "evil = True\n"}), installed.incoming)
    result = installed.play()
    cut_off = installed.environment
    installed.use_wheels(wheels)
    assert result.status == "failed"
    assert "Hash mismatch for `alpha==1.1`" in " ".join(result.evidence), result
    assert result.hint is not None
    assert (installed.prefix / "current").readlink() == live
    assert not (cut_off / ".complete").exists()
    assert json.loads((installed.prefix / "state.json").read_text()) == state


def test_a_changed_service_alone_needs_no_new_environment(installed: Site) -> None:
    built, key = (installed.environment / ".complete").read_text(), key_of(installed)
    service = installed.variables["firstlight_service"]
    installed.plan(firstlight_service={**service, "environment": {**service["environment"], "NEW": "yes"}})
    result = installed.play("serve")
    assert (result.status, result.changed) == ("ok", True), result
    assert (installed.environment / ".complete").read_text() == built
    assert "NEW=yes" in (installed.prefix / "etc" / "service.env").read_text()
    assert key_of(installed) == key
