"""The watchdog of a booted host: an engine that a signal stopped, or a worker that hangs, serves again without a person; a slow one is let be.

The tests of workers run in order on the same host; each continues from the state that the one before left.
"""

import json
import threading
import time
import tomllib
from pathlib import Path

import pytest

from provision.features.watchdog import health_agent
from tests.fleet.command_runner import CommandRunner
from tests.fleet.hosts import FleetHost
from tests.fleet.serving import INVOCATION, PREFIX, checks_of_what_serves

pytestmark = pytest.mark.long("watchdog", seconds=820)

STOP = "kill -STOP $(pgrep -f ^VLLM::EngineCore)"
RESTART = tomllib.loads((Path(health_agent.__file__).parent / "onhost/health/health.toml").read_text())["restart"]
WORKER = "pgrep -f ^VLLM::Worker_TP"
NOTED = f"grep -o seconds {PREFIX}/health-agent/watchdog.json 2>/dev/null"
SYSTEM_UNIT = "/etc/systemd/system/firstlight-vllm.service"
DROPIN = "/run/systemd/system/firstlight-vllm.service.d"
AT_ONCE, LOAD = 4, 16
"""Requests that the engine computes together, and those that are sent: the others wait."""
HOOK = f"""
import signal, threading, time
held = threading.Lock()
held.acquire()
def wait_for_ever(*_):
    held.acquire()
def compute_for_long(*_):
    until = time.monotonic() + {2 * RESTART["idle_s"]}
    while time.monotonic() < until:
        pass
signal.signal(signal.SIGUSR1, wait_for_ever)
signal.signal(signal.SIGUSR2, compute_for_long)
"""
"""Lets the main thread of a process of vLLM, which computes in a worker, wait for a lock or take long for a step."""
CLIENT = f"""
import json, threading, time, urllib.request
[key] = [line.split("=", 1)[1].strip() for line in open("{PREFIX}/etc/service.env") if line.startswith("VLLM_API_KEY=")]
headers = {{"Authorization": "Bearer " + key, "Content-Type": "application/json"}}
def send(path, body=None, timeout=900):
    asked = urllib.request.Request("http://127.0.0.1:8000" + path, body, headers)
    return urllib.request.urlopen(asked, timeout=timeout)
"""
COMPLETE = f"""{CLIENT}
time.sleep(3)
while True:
    try:
        model = json.load(send("/v1/models", timeout=10))["data"][0]["id"]
        json.load(send("/v1/completions", json.dumps({{"model": model, "prompt": "a", "max_tokens": 1}}).encode(), 10))
        break
    except OSError:
        time.sleep(0.5)
"""
"""Ends when a token was made."""
SENT = f"""{CLIENT}
body = json.dumps({{"model": "builtin-1", "prompt": "a", "max_tokens": 512, "ignore_eos": True}}).encode()
said = []
def ask():
    began = time.monotonic()
    try:
        status = send("/v1/completions", body).status
    except OSError as error:
        status = getattr(error, "code", 0)
    said.append((status, time.monotonic() - began))
threads = [threading.Thread(target=ask) for _ in range({LOAD})]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(json.dumps(said))
"""


def record(host: FleetHost) -> dict[str, list[dict[str, str]]]:
    """Return what the watchdog of a host noted."""
    found: dict[str, list[dict[str, str]]] = json.loads(host.sh(f"cat {PREFIX}/health-agent/watchdog.json"))
    return found


def test_a_stopped_engine_is_restarted_and_serves_again(
    host: FleetHost, inventory: str, firstlight: CommandRunner
) -> None:
    firstlight.changes_nothing("provision", "-i", inventory)
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
    ended = firstlight.changes_nothing("provision", "-i", inventory)
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


class Load:
    """More requests than an engine computes at once, sent by the host itself.

    A fast engine may answer all of them before a signal arrives, so a test sends its signal first.
    """

    def __init__(self, host: FleetHost) -> None:
        self._host, self._said = host, ""
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        self._said = self._host.sh(f"python3 -I - <<'END'\n{SENT}\nEND\n", timeout_s=900)

    def answers(self) -> list[tuple[int, float]]:
        """Return status and seconds of each answer, after the last one; status 0 is that of a connection that was lost."""
        self._thread.join()
        return [tuple(one) for one in json.loads(self._said)]


def count(host: FleetHost) -> int:
    """Return how many events the watchdog has noted."""
    return int(host.sh(f"{NOTED} | wc -l"))


def wait_for_restart(host: FleetHost, before: int) -> dict[str, str]:
    """Return what the watchdog notes after so many events, when a token was made again."""
    limit_s = round(2 * RESTART["busy_s"])
    host.sh(
        f"for _ in $(seq {limit_s}); do test $({NOTED} | wc -l) -gt {before} && exit 0; sleep 1; done; exit 1",
        timeout_s=2 * limit_s,
    )
    host.sh(f"python3 -I - <<'END'\n{COMPLETE}\nEND\n", timeout_s=600)
    return record(host)["events"][-1]


@pytest.fixture(scope="module")
def two_workers(host: FleetHost) -> None:
    """The unit with two workers, in which the hook is loaded; the restarts that earlier tests noted do not count there."""
    more = f"--tensor-parallel-size 2 --max-num-seqs {AT_ONCE}"
    host.sh(
        f"rm -f {PREFIX}/health-agent/watchdog.json; cd {PREFIX}/current/lib/python3*/site-packages && "
        f"cat >hook.py <<'END'\n{HOOK}\nEND\necho 'import hook' >hook.pth"
    )
    host.sh(
        f"mkdir -p {DROPIN} && sed -n 's/^ExecStart=.*/[Service]\\nExecStart=\\n& {more}/p' {SYSTEM_UNIT} >{DROPIN}/workers.conf; "
        f"systemctl daemon-reload; systemctl restart firstlight-vllm; python3 -I - <<'END'\n{COMPLETE}\nEND\n",
        timeout_s=600,
    )


@pytest.mark.usefixtures("two_workers")
def test_a_stopped_worker_is_restarted(host: FleetHost) -> None:
    before = count(host)
    host.sh(f"kill -STOP $({WORKER}1)")
    load = Load(host)
    event = wait_for_restart(host, before)
    assert event["action"] == "restarted", event
    assert event["reason"].startswith("frozen: stopped by a signal for "), event
    # The worker goes on for a moment to write its stacks, and may answer then.
    assert len(load.answers()) == LOAD
    assert "State:\tT (stopped)" in host.sh(f"sed -n '/^process [0-9]*: VLLM::Worker_TP1/,/^thread/p' {event['dump']}")


@pytest.mark.usefixtures("two_workers")
def test_a_deadlock_in_the_workers_is_restarted(host: FleetHost) -> None:
    # Of one worker alone, the other one would wait actively, which may last longer until it counts as hung.
    before, workers = count(host), host.sh(f"{WORKER}; kill -USR1 $({WORKER})").split()
    assert len(workers) == 2, workers
    load = Load(host)
    event = wait_for_restart(host, before)
    assert event["action"] == "restarted", event
    assert event["reason"].startswith(("frozen: has requests and has computed nothing", "no token for ")), event
    for worker in workers:
        stacks = host.sh(f"cat {event['dump']}").partition(f"Python stacks of process {worker}:")[2]
        assert "wait_for_ever" in stacks.partition("\nPython stacks of process")[0], stacks
    assert 0 in dict(load.answers()), "open requests are lost, as the guide says"


@pytest.mark.usefixtures("two_workers")
def test_a_slow_engine_under_full_load_is_left_alone(host: FleetHost) -> None:
    before, noted = host.sh(INVOCATION), count(host)
    host.sh(f"kill -USR2 $({WORKER}1)")
    answers = Load(host).answers()
    assert [status for status, _ in answers] == [200] * LOAD
    assert max(seconds for _, seconds in answers) > 1.5 * RESTART["idle_s"], (
        "a step took longer than an idle engine may"
    )
    assert (host.sh(INVOCATION), count(host)) == (before, noted)
    host.sh(f"rm -r {DROPIN} {PREFIX}/current/lib/python3*/site-packages/hook.*; systemctl daemon-reload")


def test_uninstall_leaves_nothing_of_it(host: FleetHost, inventory: str, firstlight: CommandRunner) -> None:
    firstlight("uninstall", "-i", inventory, code=0)
    assert host.sh("ls /etc/systemd/system | grep firstlight", check=False) == ""
