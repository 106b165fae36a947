"""Several hosts at once, interruptions, and text that must not be in a run's folder."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings
from provision.phases.install.host_results import install
from provision.phases.install.hosts_file import Target
from tests.install.conftest import Site

pytestmark = pytest.mark.slow


def host(name: str, **connection: object) -> Host:
    return Host(name=name, connection=Connection.model_validate({"kind": "local"} | connection), settings=Settings())


def test_failed_hosts_stop_no_other(site: Site, tmp_path: Path) -> None:
    site.send()
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.tex").write_text("years of work")
    options = ("-o", "ConnectTimeout=5", "-p", "9")
    closed = {"kind": "ssh", "address": "127.0.0.1", "port": 9, "user": "nobody", "openssh_options": options}
    results = install(
        site.run(),
        [
            Target(host("absent", **closed), site.variables),
            Target(host("taken"), site.variables | {"firstlight_prefix": str(taken)}),
            Target(host("good"), site.variables),
        ],
    )
    found = {name: result.status for name, result in results.items()}
    assert found == {"absent": "unreachable", "taken": "failed", "good": "ok"}
    assert "host absent could not be reached" in (results["absent"].text or "")
    assert "Connection refused" in (results["absent"].text or "")
    assert str(taken) in (results["taken"].text or "")


def test_an_interrupted_installation_is_continued(site: Site) -> None:
    """Ctrl-C while a task of the host runs: its process ends, nothing is live, and the next run succeeds."""
    tool = Path(site.variables["firstlight_tools"]["builtin_model.py"])
    model = tool.read_text()
    tool.write_text(f"import pathlib, time\npathlib.Path({str(site.folder / 'begun')!r}).touch()\ntime.sleep(600)\n")
    site.send()
    interrupt(site, lambda: os.kill(os.getpid(), signal.SIGINT))
    stop = threading.Event()
    interrupt(site, stop.set, cancelled=stop.is_set)
    tool.write_text(model)
    assert site.play().status == "ok"


def interrupt(site: Site, act: Callable[[], None], cancelled: Callable[[], bool] = lambda: False) -> None:
    """Install, and interrupt it once its model is being made."""
    begun = site.folder / "begun"
    begun.unlink(missing_ok=True)

    def act_once_it_has_begun() -> None:
        while not begun.exists():
            time.sleep(0.02)
        act()

    waiting = threading.Thread(target=act_once_it_has_begun, daemon=True)
    waiting.start()
    before = signal.getsignal(signal.SIGINT)
    result = install(site.run(), [Target(site.host(), site.variables)], cancelled=cancelled)[site.name]
    assert (result.status, result.hint) == ("interrupted", "run the same command again: it continues where it stopped")
    assert "Create the built-in model" in (result.text or "")
    assert signal.getsignal(signal.SIGINT) is before
    assert not (site.prefix / "current").exists()
    assert subprocess.run(["pgrep", "-f", str(site.prefix)], capture_output=True, check=False).stdout == b""


def test_the_users_ansible_settings_change_nothing(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user configured a callback that writes JSON, another inventory, and roles of another product."""
    config = tmp_path / "ansible.cfg"
    config.write_text(
        "[defaults]\nroles_path = /nonexistent\nstdout_callback = nonexistent\nhost_key_checking = False\n"
    )
    monkeypatch.setenv("ANSIBLE_CONFIG", str(config))
    monkeypatch.setenv("ANSIBLE_STDOUT_CALLBACK", "nonexistent")
    monkeypatch.setenv("ANSIBLE_CHECK_MODE_MARKERS", "nonsense")
    result = site.play("stop")
    assert result.status == "ok", result


def test_without_targets_ansible_is_not_started(site: Site) -> None:
    run = site.run()
    assert install(run, []) == {}
    assert not run.path("install").exists()


def test_every_task_is_recorded(site: Site) -> None:
    site.play("uninstall")
    lines = [json.loads(line) for line in site.latest.path("install/tasks.jsonl").read_text().splitlines()]
    assert [(line["host"], line["role"], line["status"]) for line in lines] == [("this", "uninstall", "ok")] * 2
    assert all(line["seconds"] >= 0 for line in lines)


def test_a_playbook_keeps_the_output_of_earlier_ones_of_the_run(site: Site) -> None:
    run, targets = site.run(), [Target(site.host(), site.variables)]
    for playbook in ("stop", "uninstall"):
        install(run, targets, playbook=playbook)
    log = run.path("install/ansible.log").read_text()
    assert [line.rstrip(" *") for line in log.splitlines() if line.startswith(("#", "PLAY ["))] == [
        "# playbooks/stop.yml",
        "PLAY [Stop serving]",
        "# playbooks/uninstall.yml",
        "PLAY [Remove the installation]",
    ]
