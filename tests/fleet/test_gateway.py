"""`./firstlight gateway` on booted hosts: one gateway with Debian's HAProxy, two hosts with stub engines."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from provision.features.quarantine.marks import Quarantine
from tests.features.gateway.running import ask
from tests.fleet.command_runner import CommandRunner, Ended
from tests.fleet.gateway_client import CURRENT, Client, keys, repeated
from tests.fleet.hosts import SUDO_WITHOUT_PASSWORD, Fleet, FleetHost
from tests.fleet.inventories import inventory_of_groups
from tests.fleet.serving import PREFIX
from tests.fleet.stub_hosts import make_serving, serve_at
from tests.waiting import wait_until

pytestmark = pytest.mark.long("gateway", seconds=220)

UNIT = "firstlight-gateway.service"
AGENT = "firstlight-health-agent.service"


@dataclass(frozen=True)
class Site:
    """A gateway that was set up, two hosts behind it, and the command line."""

    gateway: FleetHost
    first: FleetHost
    second: FleetHost
    folder: Path
    command: CommandRunner
    planned: str
    """What `plan` said before it was set up."""
    made: Ended
    """The command that set it up."""

    def run(self, *clients: str, code: int | None = 0, **variables: Any) -> Ended:
        """Set it up again."""
        hosts = [self.gateway, self.first, self.second]
        path = inventory(self.folder, hosts, firstlight_gateway_clients=list(clients), **variables)
        return self.command("gateway", "-i", str(path), code=code)

    def traffic(self, *words: str) -> Ended:
        """Run `./firstlight gateway ...`."""
        return self.command("gateway", *words, "-i", str(self.folder / "hosts.yml"))

    def state(self, host: FleetHost) -> str:
        """Return the state of a host as `gateway status` shows it."""
        found = re.search(rf"\b{host.name} +(\w+)", self.traffic("status").out)
        return found[1] if found else ""

    def client(self) -> Client:
        """Return a client with a key."""
        return Client(self.gateway, keys(self.gateway)["app"])

    def process(self) -> str:
        """Return the main process of HAProxy."""
        return self.gateway.sh(f"systemctl show -p MainPID --value {UNIT}")


@pytest.fixture(scope="module")
def site(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A gateway that reaches no package sources, and two hosts in the state of serving hosts."""
    gateway, first, second = fleet.boot(3)
    for host in (first, second):
        make_serving(host)
    folder = tmp_path_factory.mktemp("gateway")
    command = CommandRunner(folder / "logs")
    path = inventory(folder, [gateway, first, second], firstlight_gateway_clients=["app", "batch"])
    planned = command("plan", "-i", str(path))
    made = command("provision", "-i", str(path), "--limit", gateway.name)
    return Site(gateway, first, second, folder, command, planned.out, made)


def inventory(folder: Path, hosts: list[FleetHost], *, watchdog: bool = False, **variables: Any) -> Path:
    """Write an inventory; without a watchdog, an engine that a test stops stays so."""
    serving = (hosts[1:], {"firstlight_watchdog": watchdog})
    return inventory_of_groups(folder, {"gateway": (hosts[:1], variables), "serving": serving})


def secrets_in(ended: Ended, gateway: FleetHost) -> list[str]:
    """Return files of the run, and its output, that contain a key."""
    words = [*keys(gateway).values(), *re.findall(r"key-of-\w+", gateway.sh(f"cat {CURRENT}/hosts.map"))]
    files = {str(path): path.read_text(errors="replace") for path in ended.run.rglob("*") if path.is_file()}
    return [
        name for name, text in {**files, "out": ended.out, "err": ended.err}.items() if any(w in text for w in words)
    ]


def test_an_inventory_without_a_gateway_is_refused(site: Site) -> None:
    done = site.command("gateway", "-i", str(site.first.inventory(site.folder / "none")), code=2)
    assert "has no gateway" in done.err


def test_a_gateway_without_package_sources_gets_haproxy_from_the_controller(site: Site) -> None:
    told = f"{site.gateway.name}: lacks haproxy, and its package sources do not answer; this machine sends them"
    assert told in " ".join(site.planned.split()), site.planned
    assert site.gateway.sh("dpkg-query -W -f '${Status}' haproxy").strip() == "install ok installed"
    found = [site.made.host(host.name)["phases"] for host in (site.first, site.second)]
    assert [*map(list, found)] == [["probe", "serve"]] * 2, "no plan for them: the run is for the gateway"


def test_a_gateway_answers_and_the_run_reports_what_clients_need(site: Site) -> None:
    done, gateway = site.made, site.gateway
    assert done.code == 0, done.output()
    on_gateway = done.host(gateway.name)
    assert on_gateway["state"] == "serving"
    assert on_gateway["gateway"]["endpoint"] == f"https://{gateway.address}:8443/v1"
    assert on_gateway["gateway"]["models"] == {"stub": sorted([site.first.name, site.second.name])}
    shown = gateway.sh(f"openssl x509 -noout -fingerprint -sha256 -in {CURRENT}/certificate.pem").strip()
    assert on_gateway["gateway"]["fingerprint"] == shown.partition("=")[2]
    assert on_gateway["gateway"]["fingerprint"] in done.out.replace("\n", "").replace(" ", "")
    assert secrets_in(done, gateway) == []
    assert gateway.sh(f"systemctl is-active {UNIT}; systemctl is-enabled {UNIT}").split() == ["active", "enabled"]
    assert gateway.sh("systemctl is-enabled haproxy.service", check=False).strip() == "disabled"
    assert gateway.sh("ls /run | grep incoming", check=False) == ""
    assert {site.client().chat() for _ in range(10)} == {(200, site.first.name), (200, site.second.name)}
    assert Client(gateway, "no").chat()[0] == 401


def test_each_host_has_a_health_agent_that_takes_a_frozen_engine_out(site: Site) -> None:
    for host in (site.first, site.second):
        shown = host.sh(f"systemctl is-active {AGENT}; systemctl is-enabled {AGENT}; ss -Hltnp sport = :8009")
        assert shown.split()[:2] == ["active", "enabled"]
        assert f"{host.address}:8009" in shown, "at the address of the server alone"
        assert host.sh(f"systemctl show -p User --value {AGENT}").strip() == "firstlight"
    client = site.client()
    site.first.sh("kill -STOP $(pgrep -f ^VLLM::EngineCore)")
    try:
        wait_until(lambda: site.state(site.first) == "down", "the gateway does not notice")
        assert {client.chat() for _ in range(10)} == {(200, site.second.name)}
        said = site.command("doctor", "-i", str(site.folder / "hosts.yml"), "--limit", site.first.name, "--json")
        assert json.loads(said.out)[0]["findings"][0]["cause"] == "engine-hang", said.output()
    finally:
        site.first.sh("kill -CONT $(pgrep -f ^VLLM::EngineCore)")
    wait_until(lambda: client.chat() == (200, site.first.name), "it never comes back")
    assert "frozen" in site.first.sh(f"journalctl -o cat -u {AGENT}")


def test_a_health_agent_ends_and_starts_with_the_engine(site: Site) -> None:
    site.second.sh("systemctl stop stub")
    assert site.second.sh(f"systemctl is-active {AGENT}", check=False).strip() == "inactive"
    site.second.sh("systemctl start stub")
    wait_until(
        lambda: site.second.sh(f"systemctl is-active {AGENT}", check=False).strip() == "active", "it never starts"
    )


def test_an_agent_is_restarted_where_a_run_ended_before_that(site: Site) -> None:
    started = f"systemctl show -P ExecMainStartTimestampMonotonic {AGENT}"
    before = site.first.sh(f"echo older > {PREFIX}/health-agent/started; {started}")
    site.run("app", "batch")
    assert site.first.sh(started) != before


def test_a_stopped_engine_is_restarted_and_in_traffic_again_without_a_person(
    site: Site, record_property: Callable[[str, object], None]
) -> None:
    site.run("app", "batch", watchdog=True)
    client, started, answers = site.client(), "systemctl show -P ExecMainStartTimestampMonotonic stub", list[Any]()
    said = site.first.sh(f"{started}; kill -STOP $(pgrep -f ^VLLM::EngineCore); cut -d' ' -f1 /proc/uptime")
    before, stopped = said.split()

    def is_restarted() -> bool:
        answers.append(client.chat())
        return site.first.sh(started).strip() not in {before, "0"}

    wait_until(is_restarted, "its watchdog does nothing")
    assert (200, site.second.name) in answers
    assert sum(status != 200 for status, _ in answers) <= 1, "the request that it had when it was stopped"
    wait_until(lambda: client.chat() == (200, site.first.name), "it gets no requests again")
    again = float(site.first.sh("cut -d' ' -f1 /proc/uptime")) - float(stopped)
    restarted = int(site.first.sh(started)) / 1e6 - float(stopped)
    record_property("seconds", {"restarted": round(restarted, 1), "in_traffic": round(again, 1)})
    [event] = json.loads(site.first.sh(f"cat {PREFIX}/health-agent/watchdog.json"))["events"]
    assert event["action"] == "restarted"
    assert event["reason"].startswith("frozen: stopped by a signal for "), event
    site.run("app", "batch")


def test_a_second_run_changes_nothing(site: Site) -> None:
    before = site.process()
    done = site.run("app", "batch")
    assert done.summary["changed"] == 0
    assert not (done.run / "install/tasks.jsonl").exists(), "nothing differs, and no playbook is played"
    assert site.process() == before


def test_a_changed_file_is_repaired(site: Site) -> None:
    live = site.gateway.sh(f"cat {CURRENT}/haproxy.cfg")
    site.gateway.sh(f"sed -i s/maxconn/#maxconn/ {CURRENT}/haproxy.cfg")
    done = site.run("app", "batch")
    assert done.summary["changed"] == 1
    assert site.gateway.sh(f"cat {CURRENT}/haproxy.cfg") == live


def test_a_host_is_drained_restarted_and_brought_back_and_no_request_is_lost(site: Site) -> None:
    client, before = site.client(), site.process()
    with repeated(client.chat, workers=2) as answers:
        drained = site.traffic("drain", site.first.name)
        count = len(answers)
        site.run("app", "batch", "more")
        site.first.sh("systemctl restart stub")
        shown = site.command("status", "-i", str(site.folder / "hosts.yml"))
        figures = site.traffic("status", "--json")
        wait_until(lambda: len(answers) > count + 50, "there is no load")
        meanwhile = set(answers[count + 2 :])
        ready = site.traffic("ready", site.first.name)
        wait_until(lambda: (200, site.first.name) in answers[-10:], "the host gets no request any more")
    assert (drained.code, ready.code) == (0, 0), drained.output() + ready.output()
    assert drained.out == f"{site.first.name}: drained at {site.gateway.name}; no request is left\n"
    assert meanwhile == {(200, site.second.name)}
    assert {status for status, _ in answers} == {200}
    assert site.process() == before, "reloaded, not restarted"
    lines = {line.partition(":")[0]: line for line in shown.out.splitlines()}
    assert f"drained at the gateway {site.gateway.name}" in lines[site.first.name]
    assert "drained" not in lines[site.second.name]
    [gate] = json.loads(figures.out)["gateways"]
    assert {one["host"]: (one["state"], one["share"], one["errors_5xx"], one["broken"]) for one in gate["hosts"]} == {
        site.first.name: ("drained", 0.0, 0, 0),
        site.second.name: ("up", 100.0, 0, 0),
    }
    sockets = "/run/firstlight-gateway/master.sock /opt/firstlight/gateway/drained.json"
    assert site.gateway.sh(f"stat -c '%U %a' {sockets}") == "root 600\n" * 2


def test_a_client_uses_its_budget_up_on_all_hosts_and_usage_shows_it(site: Site) -> None:
    for host, text in ((site.first, "minute app 10 20\nday app 300 40\n"), (site.second, "day app 100 90\n")):
        assert ask((host.address, 8000), "POST", "/stub/usage", {"usage": text}).status == 200
    site.run("app", "batch", firstlight_gateway_tokens_per_day={"app": 530})
    client = site.client()
    wait_until(lambda: client.chat()[0] == 429, "the budget is never used up")
    shown = site.traffic("usage")
    assert shown.code == 0, shown.output()
    lines = [line.split() for line in shown.out.splitlines()]
    assert ["app", "day", "400", "130", "530", "0"] in lines
    assert ["batch", "day", "0", "0", "-", "-"] in lines
    [gate] = json.loads(site.traffic("usage", "--json").out)["gateways"]
    assert gate["uncounted"] == []
    for host in (site.first, site.second):
        assert ask((host.address, 8000), "POST", "/stub/usage", {"usage": ""}).status == 200
    wait_until(lambda: client.chat()[0] == 200, "it stays refused")
    site.run("app", "batch")


def test_an_unreachable_host_stays_behind_the_gateway(site: Site) -> None:
    client, before = site.client(), site.process()
    site.first.sh("systemctl stop stub; systemctl stop ssh")
    done = site.run("app", code=None)
    site.first.sh("systemctl start ssh")
    assert done.code == 1, done.output()
    assert done.host(site.first.name)["state"] == "unreachable"
    assert done.host(site.gateway.name)["gateway"]["models"] == {"stub": sorted([site.first.name, site.second.name])}
    assert site.process() == before, "reloaded, not restarted"
    assert {client.chat() for _ in range(10)} == {(200, site.second.name)}
    site.first.sh("systemctl start stub")
    assert keys(site.gateway) == {"app": client.key}, "a client keeps its key, and the other one has none"


def test_a_quarantined_host_gets_no_requests_until_its_mark_is_lifted(site: Site) -> None:
    mark = Quarantine(at="2026-01-02T00:00:00Z", check="devices.ecc", text="uncorrected errors")
    lifted = mark.model_copy(update={"released_at": "2026-01-03T00:00:00Z"})
    environment = f"envs/{'e' * 16}"  # a mark is in force where something is live
    site.first.sh(f"cd /opt/firstlight && mkdir envs && mv current {environment} && ln -s {environment} current")
    for written, behind in ((mark, [site.second.name]), (lifted, [site.first.name, site.second.name])):
        site.first.sh(f"printf '%s' '{written.model_dump_json()}' >/opt/firstlight/quarantine.json")
        done = site.run("app")
        assert (done.host(site.first.name)["state"] == "quarantined") == (written is mark)
        assert done.host(site.gateway.name)["gateway"]["models"] == {"stub": sorted(behind)}
        assert {site.client().chat() for _ in range(10)} == {(200, name) for name in behind}
    site.first.sh(f"cd /opt/firstlight && rm current && mv {environment} current")


def test_files_that_haproxy_refuses_are_not_installed(site: Site) -> None:
    site.run("app")
    live, client = site.gateway.sh(f"readlink {CURRENT}"), site.client()
    serve_at(site.second, 123456)
    done = site.run("app", code=None)
    serve_at(site.second, 8000)
    assert done.code == 1, done.output()
    assert "HAProxy refuses" in done.out
    assert "123456" in done.out
    assert site.gateway.sh(f"readlink {CURRENT}") == live
    assert client.chat()[0] == 200


def test_an_occupied_address_leaves_the_gateway_unchanged(site: Site) -> None:
    live, client = site.gateway.sh(f"readlink {CURRENT}"), site.client()
    site.gateway.sh("systemd-run -q --collect --unit=other python3 -m http.server 9443")
    wait_until(lambda: "9443" in site.gateway.sh("ss -Hltn"), "the other program never listens")
    done = site.run("app", firstlight_gateway_port=9443, code=1)
    assert "cannot bind" in done.out
    assert "firstlight_gateway_port" in done.out
    assert site.gateway.sh(f"readlink {CURRENT}") == live
    assert client.chat()[0] == 200


def test_a_gateway_starts_after_a_reboot_and_is_removed_completely(site: Site) -> None:
    assert site.traffic("drain", site.first.name).code == 0
    client = site.client()
    site.gateway.reboot()
    assert site.gateway.sh(f"systemctl is-active {UNIT}").strip() == "active"
    assert {client.chat() for _ in range(10)} == {(200, site.second.name)}, "who is drained stays so"
    path = inventory(site.folder, [site.gateway, site.first, site.second])
    done = site.command("uninstall", "-i", str(path), "--limit", site.gateway.name, code=0)
    assert "haproxy" in done.out, "its packages remain, and are named"
    assert site.gateway.sh(f"systemctl is-active {UNIT}; ls -d /opt/firstlight", check=False).split() == ["inactive"]
    site.command("uninstall", "-i", str(path), "--limit", site.first.name, code=0)
    left = f"systemctl is-active {AGENT}; ls -d /opt/firstlight /etc/systemd/system/{AGENT}"
    assert site.first.sh(left, check=False).split() == ["inactive"]


@pytest.mark.long(seconds=60)
def test_serving_hosts_can_be_gateways_with_the_same_keys(fleet: Fleet, tmp_path: Path) -> None:
    hosts = fleet.boot(2, packages=("haproxy", "openssl"))
    for host in hosts:
        make_serving(host)
    entries = {host.name: {**host.inventory_entry(SUDO_WITHOUT_PASSWORD), "ansible_become": True} for host in hosts}
    path = tmp_path / "hosts.yml"
    path.write_text(json.dumps({"all": {"children": {name: {"hosts": entries} for name in ("gateway", "serving")}}}))
    command = CommandRunner(tmp_path / "logs")
    done = command("gateway", "-i", str(path), code=0)
    assert [host["state"] for host in done.summary["hosts"]] == ["serving", "serving"]
    assert keys(hosts[0]) == keys(hosts[1])
    for host in hosts:
        client = Client(host, keys(host)["default"])
        assert {client.chat() for _ in range(10)} == {(200, one.name) for one in hosts}
    assert command("gateway", "-i", str(path)).summary["changed"] == 0
