"""The watchdog of a booted host: an engine that a signal stopped serves again without a person, and stays down after too many restarts."""

from __future__ import annotations

import json
import time

import pytest

from tests.fleet.command_runner import CommandRunner
from tests.fleet.hosts import FleetHost
from tests.fleet.serving import PREFIX, checks_of_what_serves

pytestmark = pytest.mark.long("watchdog", seconds=400)

INVOCATION = "systemctl show -P InvocationID firstlight-vllm"
STOP = "kill -STOP $(pgrep -f ^VLLM::EngineCore)"
COMPLETE = f"""
import json, time, urllib.request
time.sleep(3)
[key] = [line.split("=", 1)[1].strip() for line in open("{PREFIX}/etc/service.env") if line.startswith("VLLM_API_KEY=")]
def ask(path, body=None):
    asked = urllib.request.Request("http://127.0.0.1:8000" + path, body, {{"Authorization": "Bearer " + key, "Content-Type": "application/json"}})
    return json.load(urllib.request.urlopen(asked, timeout=10))
while True:
    try:
        model = ask("/v1/models")["data"][0]["id"]
        ask("/v1/completions", json.dumps({{"model": model, "prompt": "a", "max_tokens": 1}}).encode())
        break
    except OSError:
        time.sleep(0.5)
"""
"""Ends when a token was made."""


def record(host: FleetHost) -> dict[str, list[dict[str, str]]]:
    """Return what the watchdog of a host noted."""
    found: dict[str, list[dict[str, str]]] = json.loads(host.sh(f"cat {PREFIX}/health-agent/watchdog.json"))
    return found


def test_a_stopped_engine_is_restarted_and_serves_again(
    host: FleetHost, inventory: str, firstlight: CommandRunner
) -> None:
    ended = firstlight("provision", "-i", inventory)
    assert (ended.code, ended.summary["changed"]) == (0, 0), ended.output()
    stopped_at = float(host.sh(f"date +%s.%N; {STOP}"))
    # The engine goes on for a moment to write its stacks, and may answer then.
    host.sh(f"for _ in $(seq 40); do test -e {PREFIX}/health-agent/watchdog.json && exit 0; sleep 1; done; exit 1")
    host.sh(f"python3 -I - <<'END'\n{COMPLETE}\nEND\n", timeout_s=600)
    started_at = float(host.sh('date +%s --date="$(systemctl show -P ExecMainStartTimestamp firstlight-vllm)"'))
    [event] = record(host)["events"]
    assert event["action"] == "restarted", event
    assert event["reason"].startswith("frozen: stopped by a signal for "), event
    assert started_at > stopped_at

    dump = host.sh(f"cat {event['dump']}")
    assert "VLLM::EngineCore" in dump
    assert "State:\tT (stopped)" in dump
    assert dump.count("(most recent call first)") >= 2, dump
    assert "core.py" in dump.partition("Python stacks of process")[2], "not the stacks of the engine"

    told = f"its watchdog restarted it once, last at {event['at']}: {event['reason']}"
    shown = firstlight("status", "-i", inventory)
    assert told in " ".join(shown.out.split()), shown.output()
    ended = firstlight("provision", "-i", inventory)
    assert (ended.code, ended.summary["changed"]) == (0, 0), ended.output()
    assert any(note.startswith(told) for note in ended.host(host.name)["notes"]), ended.output()
    assert "firstlight_watchdog_restarts_total 1" in host.sh(
        f"{PREFIX}/current/bin/python -I -S {PREFIX}/bin/verify.pyz metrics --prefix {PREFIX}"
    )


def test_it_leaves_a_run_and_a_person_alone(host: FleetHost, inventory: str, firstlight: CommandRunner) -> None:
    invocation = host.sh(INVOCATION)
    host.sh(f"setsid -f flock {PREFIX}/lock sleep 40 >/dev/null 2>&1 </dev/null; {STOP}")  # as a run has it
    host.sh(f"for _ in $(seq 30); do test -e {PREFIX}/run/hang && exit 0; sleep 1; done; exit 1")
    time.sleep(6)
    assert host.sh(INVOCATION) == invocation
    assert "not restarted yet: a run has this host" in host.sh("journalctl -o cat -t firstlight-watchdog")
    host.sh("systemctl kill --signal=KILL firstlight-vllm; systemctl stop firstlight-vllm")
    host.sh("while pgrep -x flock; do sleep 1; done", timeout_s=90)
    time.sleep(15)  # longer than systemd would wait for a restart of its own
    assert host.sh("systemctl is-active firstlight-vllm", check=False).strip() in {"inactive", "failed"}
    assert host.sh(f"ls {PREFIX}/run/hang", check=False) == ""
    ended = firstlight("provision", "-i", inventory)
    assert (ended.code, ended.host(host.name)["state"]) == (0, "serving"), ended.output()


def test_after_too_many_restarts_it_is_left_down(host: FleetHost, inventory: str, firstlight: CommandRunner) -> None:
    known = record(host)
    now = int(host.sh("date +%s"))
    known["events"] = [{**known["events"][0], "seconds": str(now)}] * 3  # an hour's restarts
    text = json.dumps(known).replace(f'"{now}"', str(now))
    host.sh(f"printf '%s' '{text}' >{PREFIX}/health-agent/watchdog.json")
    host.sh(STOP)
    host.sh("for _ in $(seq 60); do systemctl is-active --quiet firstlight-vllm || exit 0; sleep 1; done; exit 1")
    time.sleep(12)  # longer than systemd would wait for its own restart
    assert host.sh("systemctl is-active firstlight-vllm", check=False).strip() in {"inactive", "failed"}
    shown = " ".join(firstlight("status", "-i", inventory).out.split())
    assert "its watchdog left it down" in shown, shown
    assert "hung again after 3 restarts within an hour" in shown, shown
    said = firstlight("doctor", "-i", inventory, "--limit", host.name, "--json")
    # The watchdog's own SIGKILL is in the journal, too.
    assert "engine-hang" in {finding["cause"] for finding in json.loads(said.out)[0]["findings"]}, said.output()
    ended = firstlight("provision", "-i", inventory)
    assert (ended.code, ended.host(host.name)["state"]) == (0, "serving"), ended.output()
    assert {check["status"] for check in checks_of_what_serves(firstlight, "-i", inventory).values()} == {"ok"}


def test_uninstall_leaves_nothing_of_it(host: FleetHost, inventory: str, firstlight: CommandRunner) -> None:
    ended = firstlight("uninstall", "-i", inventory)
    assert ended.code == 0, ended.output()
    assert host.sh("ls /etc/systemd/system | grep firstlight", check=False) == ""
