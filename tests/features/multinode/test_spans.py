"""Which hosts of an inventory one model is spread over, and inventories that are refused."""

from typing import Any

import pytest

from provision.core.errors import InventoryError
from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings
from provision.features.multinode.spans import with_spans
from provision.fleet.inventory import load
from provision.fleet.inventory.conflicts import conflicts
from provision.phases.plan.explain import ports_between
from tests.inventory.conftest import Make

HOSTS = """
all:
  children:
    big:
      hosts: {a: {ansible_host: 10.0.0.1}, b: {ansible_host: 10.0.0.2}, c: {ansible_host: 10.0.0.3}, d: {ansible_host: 10.0.0.4}}
      vars: {firstlight_span: 2, firstlight_expose: true}
    gateway: {hosts: {b: {}}}
    other: {hosts: {e: {ansible_host: 10.0.0.9}}}
"""


def host(name: str, *groups: str, address: str | None = None, **settings: Any) -> Host:
    where = address or f"10.0.0.{ord(name)}"
    wanted = Settings(**{"span": 2, "expose": True, **settings})
    return Host(name=name, groups=groups or ("big",), connection=Connection(kind="ssh", address=where), settings=wanted)


def heads(*hosts: Host) -> str:
    return "".join(found.head for found in with_spans(hosts))


def refusal(*hosts: Host) -> str:
    with pytest.raises(InventoryError) as caught:
        with_spans(hosts)
    assert caught.value.hint
    return caught.value.text


def test_hosts_of_a_group_form_spans_in_inventory_order_and_a_limit_changes_none(make: Make) -> None:
    path = make(HOSTS)
    whole = {found.name: found.span for found in load(path).hosts}
    assert [span.members if span else None for span in whole.values()] == [*[("a", "b")] * 2, *[("c", "d")] * 2, None]
    assert whole["d"]
    assert whole["d"].addresses == ("10.0.0.3", "10.0.0.4")
    assert {found.name: found.span for found in load(path, limit="b,c,e").hosts} == {
        name: whole[name] for name in "bce"
    }


def test_hosts_of_other_groups_or_sizes_form_spans_of_their_own() -> None:
    assert heads(host("a", "x"), host("c", "y"), host("b", "x"), host("d", "y")) == "acac"
    assert heads(host("a"), host("b", span=3), host("c"), *(host(name, span=3) for name in "de")) == "ababb"


def test_the_ports_of_a_span_are_named_with_those_of_ray() -> None:
    chosen = "32768 to 60999 of each, from these hosts alone: the run writes the rules into a file"
    assert ports_between(Settings(span=2)) == f"TCP 29501 and 29502 of the first host, {chosen}"
    with_ray = f"TCP 29501 and 29502 of the first host, 29503 to 29582 and {chosen}"
    assert ports_between(Settings(span=2, executor="ray")) == with_ray
    assert conflicts(Settings(span=2, expose=True, executor="ray", span_port=65454)) == []


def test_that_a_host_is_a_gateway_or_monitors_does_not_count() -> None:
    assert heads(host("a", "big", "monitoring"), host("b", "big", "gateway")) == "aa"


def test_hosts_that_do_not_serve_are_in_no_span() -> None:
    assert heads(host("a"), host("b", serve=False), host("c"), host("d", vllm="none")) == "abad"


def test_the_address_between_the_hosts_may_be_another_one() -> None:
    [first, _] = with_spans([host("a", address="a.example.org", span_address="172.16.0.1"), host("b")])
    assert first.span
    assert first.span.addresses == ("172.16.0.1", "10.0.0.98")


def test_the_addresses_of_a_span_are_as_the_kernel_writes_them() -> None:
    [first, _] = with_spans([host("a", address="2001:DB8:0::1"), host("b", span_address="fd00:0:0:0::2")])
    assert first.span
    assert first.span.addresses == ("2001:db8::1", "fd00::2")


def test_a_group_that_cannot_be_divided_is_refused() -> None:
    text = "firstlight_span: 2: group `big` has {}, which is no multiple of 2"
    assert refusal(*map(host, "abc")) == text.format("3 hosts that serve (`a`, `b`, `c`)")
    assert refusal(host("a")) == text.format("1 host that serves (`a`)")


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"max_model_len": 512}, "differ in firstlight_max_model_len: None and 512"),
        ({"env": {"A": "1"}}, "differ in firstlight_env"),
        ({"prefix": "/srv/firstlight"}, "differ in firstlight_prefix"),
        ({"address": "b.example.org"}, "its address `b.example.org` is a name"),
    ],
)
def test_hosts_of_a_span_have_to_be_equal_and_have_addresses(own: dict[str, Any], said: str) -> None:
    assert said in refusal(host("a"), host("b", **own))


def test_hosts_of_a_span_may_differ_in_what_only_concerns_themselves() -> None:
    assert heads(host("a", bind="10.0.0.97"), host("b", gateway_port=9443, metrics_port=9101)) == "aa"


@pytest.mark.parametrize(
    ("settings", "setting", "said"),
    [
        ({"expose": False}, "span", "listen on the network between the hosts, and ask nobody for a key"),
        ({"data_parallel": 2}, "data_parallel", "2 copies of a model are wanted, which is spread over 2 hosts"),
        ({"tensor_parallel": 3, "pipeline_parallel": 1}, "span", "3 processes, which cannot be divided by 2 hosts"),
        ({"span_address": "127.0.0.1"}, "span_address", "is no IP address at which other hosts reach this one"),
        ({"span_address": "gpu-1"}, "span_address", "is no IP address at which other hosts reach this one"),
        ({"vllm_args": ("--nnodes", "2")}, "vllm_args", "'--nnodes' is decided by firstlight_span"),
        ({"vllm_args": ("--distributed-exec=ray",)}, "vllm_args", "firstlight_executor decides what starts"),
        ({"executor": "ray", "span_port": 65455}, "span_port", "65455 leaves too few ports for Ray"),
        ({"executor": "ray", "env": {"RAY_ADDRESS": "10.0.0.9:1"}}, "env", "is decided by firstlight_executor"),
        ({"executor": "ray", "span": 1}, "executor", "'ray' starts the processes of a model over several hosts"),
        ({"env": {"VLLM_HOST_IP": "10.0.0.1"}}, "env", "VLLM_HOST_IP is decided by firstlight_span_address"),
        ({"gpus": (0,), "tensor_parallel": 2}, "gpus", "2 GPUs on 2 hosts are named, and tensor, pipeline and data"),
    ],
)
def test_settings_that_contradict_a_span_are_refused(settings: dict[str, Any], setting: str, said: str) -> None:
    [found] = conflicts(Settings(**{"span": 2, "expose": True, **settings}))
    assert (found.setting, said in found.text, bool(found.hint)) == (setting, True, True)
