"""The command `drift`: what is compared with what, where the answer goes, and its exit code. The hosts' answers are stand-ins."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from provision.core.errors import RemoteCommandError, UsageError
from provision.core.models.facts import Configuration, HostFacts, Installed, OperatingSystem, PciGpu, User
from provision.core.models.inventory import Host
from provision.features.host_comparison.commands import compare_hosts
from provision.phases.probe import step as probe
from provision.phases.probe.reading import CONFIGURATION
from provision.pipeline import CommandRequest

H100 = PciGpu(address="0000:1b:00.0", vendor_id="10de", device_id="2330", class_id="0302")


class Site:
    """Hosts of an inventory, and what the probe finds on each."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.kernels = dict.fromkeys("abc", "6.1")
        self.cards: dict[str, tuple[PciGpu, ...]] = dict.fromkeys("abc", (H100,))
        self.services: dict[str, tuple[str, ...]] = {}
        """Services of each machine, where it has several."""
        self.releases: dict[str, str] = {}
        """Another release of a host than that of the others with its service."""
        self.silent: set[str] = set()
        monkeypatch.setattr(probe, "probe_host", self.probe)

    def probe(self, host: Host, session: Any, *, more: Collection[str]) -> HostFacts:
        assert CONFIGURATION in more
        if host.name in self.silent:
            raise RemoteCommandError(f"host `{host.name}`: the probe got no answer")
        return HostFacts(
            host=host.name,
            probed_at="2026-01-01T00:00:00Z",
            clock_skew_s=0.0,
            user=User(uid=0, home="/root"),
            os=OperatingSystem(kernel=self.kernels[host.machine], hostname=host.machine),
            pci_gpus=self.cards[host.machine],
            configuration=Configuration(packages={"tar": "1"}),
            installed=self.installed(host),
        )

    def installed(self, host: Host) -> Installed | None:
        """Return the installation of a service, which those of other services are not equal to."""
        if host.service is None:
            return None
        release = self.releases.get(host.name, f"release of {host.service.name}")
        return Installed(prefix=f"/opt/firstlight/services/{host.service.name}", release=release)

    def drift(self, against: str | None = None, *, as_json: bool = False) -> int:
        inventory = self.folder / "hosts.yml"
        local = {"ansible_connection": "local"}
        hosts: dict[str, dict[str, Any]] = {name: dict(local) for name in self.kernels}
        for name, services in self.services.items():
            hosts[name]["firstlight_services"] = {
                service: {"port": 8000 + number} for number, service in enumerate(services)
            }
        groups = {"gpus": {"hosts": hosts}}
        inventory.write_text(json.dumps({"all": {"children": groups}}))
        request = CommandRequest("drift", inventory, None, {}, self.folder / "logs", as_json=as_json)
        return compare_hosts(request, against)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


def test_equal_hosts_are_code_0(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert site.drift() == 0
    assert capsys.readouterr().out == "10de:2330: 3 hosts, compared with their majority\n  no difference\n"


def test_an_odd_host_is_code_1_and_named(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.kernels["b"] = "6.2"
    assert site.drift() == 1
    assert "\n  b: os.kernel is 6.2, expected 6.1\n" in capsys.readouterr().out


def test_hosts_with_other_cards_are_not_equals(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.kernels["b"], site.cards["b"] = "6.2", ()
    assert site.drift() == 0
    assert "no GPU: b is the only such host: there is nothing to compare it with" in capsys.readouterr().out


def test_services_are_compared_with_those_of_the_same_name(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.services = {"a": ("chat", "embed"), "b": ("chat", "embed"), "c": ("chat",)}
    assert site.drift() == 0
    assert capsys.readouterr().out == "10de:2330: 3 hosts, compared with their majority\n  no difference\n"
    assert site.drift("a@embed") == 0
    site.releases["b@chat"] = "another"
    assert site.drift() == 1
    assert "  b: installed[chat].release is another, expected release of chat\n" in capsys.readouterr().out
    assert site.drift("a@chat") == 1
    assert "compared with `a@chat`\n  b: installed[chat].release is another" in capsys.readouterr().out


def test_a_machine_with_several_services_counts_once(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.services, site.kernels["a"] = {"a": ("chat", "embed", "rank")}, "6.2"
    assert site.drift() == 1
    assert "\n  a: os.kernel is 6.2, expected 6.1\n" in capsys.readouterr().out


def test_a_file_of_a_service_is_a_reference_for_services_of_its_name(site: Site) -> None:
    site.services = dict.fromkeys("abc", ("chat", "embed"))
    site.drift()
    golden = site.folder / "golden.json"
    golden.write_bytes((site.folder / "logs/queries/latest/facts/a@chat.json").read_bytes())
    site.releases["b@embed"] = "another"
    assert site.drift(str(golden)) == 0
    site.releases["b@chat"] = "another"
    assert site.drift(str(golden)) == 1


def test_a_golden_host_is_right_against_the_majority(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.kernels["b"] = "6.2"
    assert site.drift("b") == 1
    assert "  a, c (2 hosts): os.kernel is 6.1, expected 6.2\n" in capsys.readouterr().out


def test_a_file_of_an_earlier_comparison_is_a_reference(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.drift()
    golden = site.folder / "golden.json"
    golden.write_bytes((site.folder / "logs/queries/latest/facts/a.json").read_bytes())
    assert site.drift(str(golden)) == 0
    site.kernels = dict.fromkeys("abc", "6.2")
    assert site.drift(str(golden), as_json=True) == 1
    out = capsys.readouterr().out
    [entry] = json.loads(out[out.index("{") :])["classes"]
    assert entry["odd"][0]["hosts"] == ["a", "b", "c"]
    assert entry["odd"][0]["differences"] == [{"part": "kernel", "key": "os.kernel", "expected": "6.1", "found": "6.2"}]


def test_a_silent_host_is_named_and_the_others_are_compared(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.silent = {"c"}
    assert site.drift() == 1
    out = capsys.readouterr().out
    assert "2 hosts, compared with their majority" in out
    assert out.endswith("c: gave no answer\n")
    assert site.drift(as_json=True) == 1
    [missing] = json.loads(capsys.readouterr().out)["missing"]
    assert (missing["host"], missing["state"]) == ("c", "failed")


def test_a_silent_golden_host_compares_nothing(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.silent = {"c"}
    assert site.drift("c") == 1
    assert "the probe got no answer" in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, "no JSON", "[]"])
def test_a_wrong_reference_is_refused_before_any_host_is_asked(site: Site, content: str | None) -> None:
    path = site.folder / "golden.json"
    if content is not None:
        path.write_text(content)
    site.silent = {"a", "b", "c"}
    with pytest.raises(UsageError):
        site.drift(str(path))
    assert not (site.folder / "logs").exists()
