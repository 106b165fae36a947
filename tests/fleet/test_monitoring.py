"""`./firstlight monitoring` on booted hosts: Debian's Prometheus on one, its node exporter and a stub engine on the other."""

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from provision.phases.verify.tool import zipapp
from tests.fleet.command_runner import CommandRunner, Ended
from tests.fleet.hosts import Fleet, FleetHost
from tests.fleet.inventories import inventory_of_groups
from tests.fleet.stub_hosts import make_serving, serve_at
from tests.waiting import wait_until

pytestmark = pytest.mark.long("monitoring", seconds=170)

CURRENT = "/opt/firstlight/monitoring/current"
PROMETHEUS, EXPORTER = "firstlight-prometheus.service", "firstlight-node-exporter.service"
LAST = {"status": "warn", "level": "quick", "started_at": "2026-11-02T00:00:00Z"}
PASSED = 1793577600.0
GET = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=30).read().decode())"


def get(host: FleetHost, url: str) -> Any:
    """Return what a program of a host answers to the host itself, as JSON."""
    return json.loads(host.sh(f"python3 -c '{GET}' '{url}'"))


@dataclass(frozen=True)
class Site:
    """A host that monitors, one that serves, and the command line."""

    monitor: FleetHost
    server: FleetHost
    folder: Path
    command: CommandRunner
    made: Ended
    """The command that set it up."""

    def run(self, *, code: int | None = 0, **variables: Any) -> Ended:
        """Set it up again."""
        return set_up(self.command, self.folder, self.monitor, self.server, code=code, **variables)

    def ask(self, query: str) -> dict[tuple[str, str], float]:
        """Return the values of a query by job and host. Raises OSError while Prometheus does not answer, as when it starts."""
        try:
            found = get(self.monitor, f"http://127.0.0.1:9090/api/v1/query?{urlencode({'query': query})}")
        except RuntimeError as error:
            raise OSError(str(error)) from None
        rows = found["data"]["result"]
        return {(row["metric"]["job"], row["metric"]["host"]): float(row["value"][1]) for row in rows}

    def process(self) -> str:
        """Return the main process of Prometheus."""
        return self.monitor.sh(f"systemctl show -p MainPID --value {PROMETHEUS}")


@pytest.fixture(scope="module")
def site(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Two hosts that reach their package sources; one of them has a stub engine and the state of a host that serves."""
    monitor, server = fleet.boot(2, online=True)
    make_serving(server)
    (server.machine.root / "opt/firstlight/bin").mkdir()
    (server.machine.root / "opt/firstlight/bin/verify.pyz").write_bytes(zipapp())
    (server.machine.root / "opt/firstlight/verify").mkdir()
    (server.machine.root / "opt/firstlight/verify/last.json").write_text(json.dumps(LAST))
    folder = tmp_path_factory.mktemp("monitoring")
    command = CommandRunner(folder / "logs")
    return Site(monitor, server, folder, command, set_up(command, folder, monitor, server, code=0))


def wait_for(seen: Callable[[], bool], otherwise: str) -> None:
    """Wait until a condition is true; to look costs a Python on a host, which shares its cores with other tests."""
    wait_until(seen, otherwise, every_s=0.5)


def set_up(
    command: CommandRunner, folder: Path, monitor: FleetHost, server: FleetHost, *, code: int | None, **variables: Any
) -> Ended:
    path = inventory_of_groups(folder, {"monitoring": ([monitor], variables), "serving": ([server], {})})
    return command("monitoring", "-i", str(path), code=code)


def test_the_run_says_what_is_read_and_prometheus_reads_it(site: Site) -> None:
    monitor, server = site.monitor, site.server
    shown = site.made.host(monitor.name)["monitoring"]
    assert shown["prometheus"] == "http://127.0.0.1:9090"
    assert shown["targets"] == {
        "vllm": [server.name],
        "node": [monitor.name, server.name],
        "cards": [],
        "gateway": [],
        "probe": [],
    }
    up = {("vllm", server.name): 1.0, ("node", server.name): 1.0, ("node", monitor.name): 1.0}
    wait_for(lambda: site.ask("up") == up, "not every target is read")
    assert site.ask("vllm:num_requests_running") == {("vllm", server.name): 0.0}
    assert set(site.ask("node_boot_time_seconds")) == {("node", server.name), ("node", monitor.name)}
    for unit in ("prometheus.service", "prometheus-alertmanager.service", "prometheus-node-exporter.service"):
        assert monitor.sh(f"systemctl is-enabled {unit}", check=False).strip() == "disabled"
    assert monitor.sh("ss -Hltn sport = :9090").split()[3] == "127.0.0.1:9090"
    assert server.sh("ss -Hltn sport = :9100").split()[3] == f"{server.address}:9100"
    assert monitor.sh("ls /run | grep incoming", check=False) == ""


def test_a_timer_writes_what_the_host_knows_of_itself(site: Site) -> None:
    host = ("node", site.server.name)
    asked = "firstlight_verify_last_passed_timestamp_seconds"
    wait_for(lambda: site.ask(asked) == {host: PASSED}, "its last verification is never read")
    assert site.ask("firstlight_service_active") == {host: 1.0}
    assert site.ask('{__name__=~"firstlight_card.*"}') == {}, "it has no GPU"
    first = site.server.sh("stat -c %i /opt/firstlight/exporter/textfile/firstlight.prom")
    wait_for(
        lambda: site.server.sh("stat -c %i /opt/firstlight/exporter/textfile/firstlight.prom") != first,
        "the file is never written again",
    )


def alerts(host: FleetHost) -> set[tuple[str, str]]:
    """Return name and host of the alerts that Alertmanager has."""
    found = get(host, "http://127.0.0.1:9093/api/v2/alerts")
    return {(one["labels"]["alertname"], one["labels"]["host"]) for one in found}


def test_an_alert_fires_after_its_fault_and_says_what_to_type(site: Site) -> None:
    out = ("VllmOut", site.server.name)
    assert out not in alerts(site.monitor)
    site.server.sh("systemctl stop stub")
    wait_for(lambda: site.ask("up").get(("vllm", site.server.name)) == 0.0, "its absence is never noticed")
    wait_for(lambda: out in alerts(site.monitor), "Alertmanager never gets it")
    said = site.monitor.sh("amtool alert query -o json --alertmanager.url=http://127.0.0.1:9093 alertname=VllmOut")
    [found] = json.loads(said)
    launcher, *words = shlex.split(found["annotations"]["runbook"])
    assert launcher == "./firstlight"
    site.command(*words, code=0)  # typed as it is
    assert words[:3] == ["doctor", "--limit", site.server.name]
    site.server.sh("systemctl start stub")
    wait_for(lambda: site.ask("up").get(("vllm", site.server.name)) == 1.0, "vLLM is never read again")


def test_a_second_run_changes_nothing(site: Site) -> None:
    before = site.process()
    done = site.run()
    assert done.summary["changed"] == 0
    assert not (done.run / "install/tasks.jsonl").exists(), "nothing differs, and no playbook is played"
    assert site.process() == before


def test_a_new_port_of_a_host_is_read_without_a_restart(site: Site) -> None:
    before = site.process()
    serve_at(site.server, 8001)
    done = site.run()
    assert done.summary["changed"] == 1
    wait_for(lambda: site.ask("up").get(("vllm", site.server.name)) == 0.0, "the old port is still read")
    serve_at(site.server, 8000)
    site.run()
    wait_for(lambda: site.ask("up").get(("vllm", site.server.name)) == 1.0, "the new port is never read")
    assert site.process() == before


def test_a_host_without_an_answer_stays_a_target(site: Site) -> None:
    site.server.sh("systemctl stop ssh")
    done = site.run(code=None)
    site.server.sh("systemctl start ssh")
    assert done.code == 1, done.output()
    assert done.host(site.monitor.name)["monitoring"]["targets"]["vllm"] == [site.server.name]


def test_files_that_prometheus_refuses_are_not_used(site: Site) -> None:
    live = site.monitor.sh(f"readlink {CURRENT}")
    serve_at(site.server, 8001)
    site.monitor.sh(
        "mv /usr/bin/promtool /root/ && printf '#!/bin/sh\\necho no such field; exit 1\\n' >/usr/bin/promtool"
    )
    site.monitor.sh("chmod 755 /usr/bin/promtool")
    done = site.run(code=None)
    site.monitor.sh("mv /root/promtool /usr/bin/")
    serve_at(site.server, 8000)
    assert done.code == 1, done.output()
    text = done.host(site.monitor.name)["phases"]["serve"]["text"]
    assert "refuses the new files: no such field" in text
    assert site.monitor.sh(f"readlink {CURRENT}") == live
    assert site.ask("up").get(("vllm", site.server.name)) == 1.0


def test_an_occupied_port_leaves_prometheus_as_it_was(site: Site) -> None:
    site.monitor.sh("systemd-run -q --collect --unit=other python3 -m http.server 9999")
    wait_for(lambda: "9999" in site.monitor.sh("ss -Hltn"), "the other program never listens")
    before = site.process()
    done = site.run(firstlight_monitoring_port=9999, code=1)
    assert "listens on port 9999 already" in done.host(site.monitor.name)["phases"]["serve"]["text"]
    assert site.process() == before


def test_it_starts_after_a_reboot_and_is_removed_completely(site: Site) -> None:
    site.monitor.reboot()
    wait_for(lambda: site.ask("up").get(("vllm", site.server.name)) == 1.0, "it does not read after a reboot")
    done = site.command("uninstall", "-i", str(site.folder / "hosts.yml"), code=0)
    assert "prometheus" in done.out, "its packages remain, and are named"
    for host in (site.monitor, site.server):
        assert host.sh("systemctl list-units --all --plain --no-legend 'firstlight-*'; ls /etc/systemd/system | grep firstlight; "
                       "ls -d /opt/firstlight; ss -Hltn | grep -E ':(9090|9093|9100|9115) '", check=False) == ""  # fmt: skip
