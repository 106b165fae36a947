"""Several services of a host: each is a host of its own for runs, and two never want the same port or GPU."""

from typing import Any

import pytest
import yaml

from provision.core.errors import InventoryError, UsageError
from provision.core.install_paths import install_paths_of, unit_of
from provision.core.models.facts import HostFacts, User
from provision.core.models.inventory import Host, Inventory
from provision.core.models.settings import Settings
from provision.fleet.inventory import load
from provision.fleet.inventory.machines import shared_machines
from provision.run.playbooks import in_rounds
from tests.inventory.conftest import Make

TWO: dict[str, Any] = {"chat": {"model": "org/chat", "gpus": [0, 1]}, "embed": {"port": 8001, "gpus": [2]}}


def hosts_of(
    make: Make, services: Any, *, group: str = "gpu", limit: str | None = None, **variables: Any
) -> tuple[Host, ...]:
    """Return the hosts of an inventory in which `gpu-1` has services and `gpu-2` has none."""
    given = {f"firstlight_{name}": value for name, value in variables.items()}
    first = {"ansible_host": "192.0.2.7", "firstlight_services": services, **given}
    content = {group: {"hosts": {"gpu-1": first, "gpu-2": {"ansible_host": "192.0.2.8"}}}}
    return load(make(yaml.dump({"all": {"children": content}})), limit=limit).hosts


def test_each_service_is_a_host_with_the_settings_of_both(make: Make) -> None:
    chat, embed, other = hosts_of(make, TWO, max_model_len=512)
    assert [(host.name, host.machine, host.is_first) for host in (chat, embed, other)] == [
        ("gpu-1@chat", "gpu-1", True),
        ("gpu-1@embed", "gpu-1", False),
        ("gpu-2", "gpu-2", True),
    ]
    assert (chat.settings.model, embed.settings.model) == ("org/chat", "builtin")
    assert (chat.settings.max_model_len, embed.settings.max_model_len) == (512, 512)
    assert [(host.settings.port, host.settings.health_port) for host in (chat, embed)] == [(8000, 8009), (8001, 8010)]
    assert chat.connection == embed.connection
    assert other.settings == Settings()
    kept = Inventory(source="hosts.yml", hosts=(chat, embed, other))
    assert Inventory.model_validate_json(kept.model_dump_json()) == kept


def test_each_service_has_a_prefix_and_a_unit_of_its_own(make: Make) -> None:
    facts = HostFacts(host="gpu-1", probed_at="2026-01-01T00:00:00Z", user=User(uid=0, home="/root"))
    chat, _, other = hosts_of(make, TWO, prefix="/srv/firstlight/")
    found = install_paths_of(chat, facts)
    assert (found.prefix, found.unit) == ("/srv/firstlight@chat", "firstlight-vllm@chat.service")
    assert found.incoming == "/var/tmp/firstlight-0@chat"
    single = install_paths_of(other, facts)
    assert (single.prefix, single.unit) == ("/opt/firstlight", "firstlight-vllm.service")
    assert unit_of("chat", "firstlight-watchdog.path") == "firstlight-watchdog@chat.path"


def test_services_of_a_machine_share_it_and_are_changed_one_after_another(make: Make) -> None:
    hosts = hosts_of(make, TWO)
    known = {"hostname": "gpu-1", "boot_id": "b00t"}
    facts = {
        host.name: HostFacts.model_validate({"host": host.name, "probed_at": "2026-01-01T00:00:00Z", "os": known})
        for host in hosts[:2]
    }
    assert shared_machines(hosts, facts) == {}
    facts["gpu-2"] = facts["gpu-1@chat"]
    assert shared_machines(hosts, facts).keys() == {"gpu-1@chat", "gpu-1@embed", "gpu-2"}
    assert [[host.name for host in one] for one in in_rounds(hosts)] == [["gpu-1@chat", "gpu-2"], ["gpu-1@embed"]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "names"),
    [
        ("gpu-1", ["gpu-1@chat", "gpu-1@embed"]),
        ("gpu-1@embed", ["gpu-1@embed"]),
        ("gpu-2,gpu-1@embed", ["gpu-1@embed", "gpu-2"]),
        ("gpu-1:gpu-1@embed", ["gpu-1@chat", "gpu-1@embed"]),
        ("gpu:!gpu-1@chat", ["gpu-1@embed", "gpu-2"]),
    ],
)
def test_a_limit_names_machines_or_services(make: Make, limit: str, names: list[str]) -> None:
    assert [host.name for host in hosts_of(make, TWO, limit=limit)] == names


@pytest.mark.parametrize("limit", ["gpu-1@chat", "gpu:!gpu-1@embed"])
def test_options_apply_to_the_services_within_the_limit(make: Make, limit: str) -> None:
    path = make(yaml.dump({"gpu": {"hosts": {"gpu-1": {"ansible_host": "192.0.2.7", "firstlight_services": TWO}}}}))
    [chat] = load(path, limit=limit, overrides={"port": 8020, "driver": "install"}).hosts
    assert [(name, own.port, own.driver) for name, own in chat.services] == [
        ("gpu-1@chat", 8020, "install"),
        ("gpu-1@embed", 8001, "install"),
    ]


def test_a_service_that_a_machine_does_not_have_is_named(make: Make) -> None:
    with pytest.raises(UsageError, match="there is no service `gpu-1@chta`") as caught:
        hosts_of(make, TWO, limit="gpu-1@chta")
    assert caught.value.hint == "there are: gpu-1@chat, gpu-1@embed"


def test_services_are_not_given_on_the_command_line(make: Make) -> None:
    path = make("all: {hosts: {gpu-1: {ansible_host: 192.0.2.7}}}\n")
    with pytest.raises(InventoryError, match="--set services: services belong to a host of the inventory"):
        load(path, overrides={"services": TWO})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("a", "b", "wanted"),
    [
        ({}, {}, "port 8000 (firstlight_port)"),
        ({}, {"port": 8009}, "port 8009 (firstlight_health_port and firstlight_port)"),
        ({"gpus": [0, 1]}, {"port": 8001, "gpus": [1]}, "GPU 1"),
        ({"gpus": ["0:1"]}, {"port": 8001, "gpus": ["0:1"]}, "GPU 0:1"),
        ({"gpus": ["0:1"]}, {"port": 8001, "gpus": [0, 1]}, "GPU 0"),
    ],
)
def test_two_services_do_not_want_the_same(make: Make, a: dict[str, Any], b: dict[str, Any], wanted: str) -> None:
    with pytest.raises(InventoryError) as caught:
        hosts_of(make, {"a": a, "b": b})
    assert str(caught.value).endswith(f"services `a` and `b` of host `gpu-1` both want {wanted}")
    assert caught.value.hint


@pytest.mark.slow
@pytest.mark.parametrize(
    ("services", "variables", "text"),
    [
        ({"a": {"span": 2, "expose": True}}, {}, "is to serve a model together with other hosts"),
        ({"a": {}}, {"group": "gateway"}, "host `gpu-1` has services and is in group `gateway`"),
        ({"a": {}}, {"firewall": "set"}, "firstlight_firewall: set knows one port of a machine"),
        ({"a": {"driver": "install"}}, {}, "service `a` sets driver, which all services of a machine share"),
        (
            {"a": {"firstlight_port": 8001}},
            {},
            "service `a` sets firstlight_port: settings of a service have no prefix",
        ),
        ({"a": {"prot": 8001}}, {}, "host gpu-1@a: firstlight_prot: there is no such setting"),
        ({"A b": {}}, {}, "a mapping of A b is not allowed"),
        (["a"], {}, "['a'] is not allowed"),
    ],
)
def test_what_services_cannot_have_is_refused(make: Make, services: Any, variables: dict[str, Any], text: str) -> None:
    with pytest.raises(InventoryError) as caught:
        hosts_of(make, services, **variables)
    assert text in str(caught.value)
    assert caught.value.hint
