"""Comparisons of hosts that should be equal: what is odd, in which order, and as one line a cause."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.core.models.facts import (
    Configuration,
    Disk,
    GpuSlice,
    HostFacts,
    Installed,
    Memory,
    Nvidia,
    NvidiaGpu,
    OperatingSystem,
)
from provision.core.redaction import scrub
from provision.core.tables import read_table
from provision.features.host_comparison.compare import Difference, compare, majority
from provision.features.host_comparison.text import MAJORITY, ComparedClass, document, render
from provision.features.host_comparison.values import OTHER, TABLE, HostValues, label_of, part_of, values_of

VALUES = st.dictionaries(
    st.sampled_from(["os.kernel", "configuration.sysctl.vm.swappiness", "configuration.packages.tar", "memory.total"]),
    st.one_of(st.text(max_size=3), st.integers(0, 9)),
)


def host(name: str, values: dict[str, Any], **unread: str) -> HostValues:
    return HostValues(name, values, unread)


def hosts(*values: dict[str, Any]) -> list[HostValues]:
    return [host(f"h{number}", one) for number, one in enumerate(values)]


def facts(name: str, **more: Any) -> HostFacts:
    return HostFacts(
        host=name,
        probed_at=f"2026-01-01T00:00:0{len(name)}Z",
        os=OperatingSystem(kernel="6.1.0", hostname=name, boot_id=f"boot of {name}"),
        nvidia=Nvidia(
            driver_version="580.95.05",
            gpus=(NvidiaGpu(index=0, name="H100", uuid=f"GPU-{name}", serial=f"1{name}", pci_address="0000:1b:00.0"),),
        ),
        disks=(Disk(path="/", mount="/", total=10**12, free=len(name)),),
        configuration=Configuration(
            packages={"tar": "1.34", "base-passwd": "3.6"}, sysctl={"vm.swappiness": "60"}, driver={}, services={}
        ),
    ).model_copy(update=more)


@given(common=VALUES, odd=VALUES, count=st.integers(2, 6), seed=st.integers())
def test_hosts_of_the_majority_have_no_finding_and_every_changed_value_is_found(
    common: dict[str, Any], odd: dict[str, Any], count: int, seed: int
) -> None:
    equals = [host(f"equal{number}", common) for number in range(count)]
    both = [*equals, host("odd", odd)]
    found = compare(both)
    changed = {key for key in common.keys() | odd.keys() if common.get(key) != odd.get(key)}
    noise = {"memory.total"}
    listed = {one.key for oddity in found.oddities for one in oddity.differences}
    assert changed - noise <= listed <= changed
    assert {oddity.hosts for oddity in found.oddities} <= {("odd",)}
    assert not found.splits
    random.Random(seed).shuffle(both)
    assert compare(both) == found


@given(values=st.lists(VALUES, min_size=1, max_size=6), reference=VALUES, seed=st.integers())
def test_the_order_of_hosts_decides_nothing(values: list[dict[str, Any]], reference: dict[str, Any], seed: int) -> None:
    several = hosts(*values)
    shuffled = random.Random(seed).sample(several, len(several))
    golden = host("golden", reference)
    assert compare(several) == compare(shuffled)
    assert compare(several, golden) == compare(shuffled, golden)
    assert compare([golden], golden).is_equal


@given(values=st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=1))
def test_the_majority_is_what_more_than_half_have(values: list[Any]) -> None:
    value, is_known = majority("os.kernel", values)
    assert is_known == any(values.count(one) * 2 > len(values) for one in values)
    assert not is_known or values.count(value) * 2 > len(values)


def test_fifty_hosts_with_one_cause_are_one_line() -> None:
    new = {"os.kernel": "6.2", "configuration.packages.linux-image": "6.2", "configuration.packages.tar": "1"}
    old = {"os.kernel": "6.1", "configuration.packages.linux-image": "6.1", "configuration.packages.tar": "1"}
    found = compare([host(f"gpu-{number}", old if number <= 50 else new) for number in range(1, 120)])
    compared = ComparedClass("H100", MAJORITY, found)
    lines = render([compared]).splitlines()
    assert lines[0] == "H100: 119 hosts, compared with their majority"
    assert len(lines) == 2
    assert lines[1].endswith("(50 hosts): os.kernel is 6.1, expected 6.2; packages.linux-image is 6.1, expected 6.2")


def test_the_most_telling_difference_comes_first() -> None:
    common: dict[str, Any] = {"configuration.packages.tar": "1", "configuration.services.ssh.service": "enabled"}
    common |= {"nvidia.driver_version": "580", "configuration.sysctl.vm.swappiness": "60", "os.kernel": "6.1"}
    found = compare(
        [
            *hosts(common, common, common),
            host("packages", common | {"configuration.packages.tar": "2"}),
            host("all", dict.fromkeys(common, "x")),
        ]
    )
    assert [oddity.hosts for oddity in found.oddities] == [("all",), ("packages",)]
    order = [part_of(one.key) for one in found.oddities[0].differences]
    assert order == ["driver", "kernel", "sysctl", "services", "packages"]
    line = render([ComparedClass("H100", MAJORITY, found)]).splitlines()[1]
    assert line.endswith("; 2 more differences: 1 in services, 1 in packages")


def test_values_without_a_majority_are_named_with_their_hosts() -> None:
    found = compare(hosts({"os.kernel": "6.1", "os.id": "debian"}, {"os.kernel": "6.2", "os.id": "ubuntu"}))
    assert not found.oddities
    [split] = found.splits
    assert split.groups == (("h0",), ("h1",))
    text = render([ComparedClass("H100", MAJORITY, found)])
    assert "no majority: os.kernel is 6.1 on h0, 6.2 on h1; 1 more difference: 1 in system" in text


def test_what_a_host_could_not_read_is_not_compared() -> None:
    unread = HostValues("u", {"os.id": "debian"}, {"os.kernel": "no answer"})
    found = compare([*hosts({"os.kernel": "6.1"}, {"os.kernel": "6.1"}), unread])
    assert [one.key for oddity in found.oddities for one in oddity.differences] == ["os.id"]
    compared = ComparedClass("H100", MAJORITY, found, {"u": unread.unread})
    assert "not compared: u: os.kernel: no answer" in render([compared])


def test_sizes_within_the_noise_are_equal() -> None:
    sizes = [{"memory.total": size} for size in (1000, 1001, 999, 1015, 900)]
    [oddity] = compare(hosts(*sizes)).oddities
    assert oddity.hosts == ("h4",)


def test_values_that_must_differ_are_left_out() -> None:
    found = compare([values_of(facts(name)) for name in ("a", "bb", "ccc")])
    assert found.is_equal


@pytest.mark.parametrize(
    ("state", "image", "slices"),
    [
        pytest.param({"member": {"in_span": True}}, None, 0, id="member"),
        pytest.param({"readiness": {"in_span": True}}, None, 0, id="head"),
        pytest.param({}, "sha256:1", 0, id="container"),
        pytest.param({}, None, 2, id="slice"),
    ],
)
@pytest.mark.parametrize("service", [None, "chat"])
def test_a_release_that_names_its_host_is_not_compared_but_its_model_is(
    state: dict[str, Any], image: str | None, slices: int, service: str | None
) -> None:
    def served(name: str, model: str) -> HostValues:
        parts = tuple(GpuSlice(index=index, uuid=f"MIG-{name}-{index}") for index in range(slices))
        gpus = (NvidiaGpu(index=0, pci_address="0000:1b:00.0", slices=parts),)
        installed = Installed(
            prefix="/opt/firstlight", release=f"of {name}", state={"model": model, **state}, image=image
        )
        return values_of(facts(name, installed=installed, nvidia=Nvidia(gpus=gpus)), service)

    equal = [served(name, "m-1") for name in ("a", "bb")]
    assert compare(equal).is_equal
    [oddity] = compare([*equal, served("ccc", "m-2")]).oddities
    assert (oddity.hosts, [one.found for one in oddity.differences]) == (("ccc",), ["m-2"])


def test_a_release_of_a_host_alone_is_compared() -> None:
    one, two = (
        values_of(facts(name, installed=Installed(prefix="/opt/firstlight", release=name, state={"model": "m"})))
        for name in ("a", "bb")
    )
    assert [key for split in compare([one, two]).splits for key, _ in split.values] == ["installed.release"]


def test_an_absent_item_is_one_difference() -> None:
    more = facts("ccc", disks=(*facts("ccc").disks, Disk(path="/data", mount="/data", total=5)))
    found = compare([values_of(one) for one in (facts("a"), facts("bb"), more)])
    assert found.oddities[0].differences == (Difference("disks[/data]", None, True),)


def test_a_value_that_was_masked_in_a_file_is_not_compared() -> None:
    kept = HostFacts.model_validate(scrub(facts("a").model_dump(mode="json")))
    assert kept.configuration is not None
    assert kept.configuration.packages is not None
    assert kept.configuration.packages["base-passwd"] != "3.6"
    assert compare([values_of(facts("bb"))], values_of(kept)).is_equal


def test_facts_of_a_plain_probe_are_compared_as_far_as_they_go() -> None:
    plain = facts("a", configuration=None, memory=Memory(total=5))
    found = compare([values_of(facts("bb", memory=Memory(total=10)))], values_of(plain))
    assert [one.key for oddity in found.oddities for one in oddity.differences] == ["memory.total"]


def test_cards_name_a_class() -> None:
    assert label_of([facts("a")]) == "H100"
    assert label_of([HostFacts(host="b", probed_at="x")]) == "no GPU"


def test_every_kind_of_fact_has_a_part_or_is_left_out_with_a_reason() -> None:
    document = facts("a").model_dump()
    rows = read_table(TABLE)["ignored"]
    ignored = {path for row in rows for path in row["paths"]}
    assert all(row["why"] for row in rows)
    known = [key for key in document if key != "configuration"]
    known += [f"configuration.{key}" for key in document["configuration"]]
    assert [key for key in known if part_of(key) == OTHER and key not in ignored] == []


def test_the_document_has_every_difference() -> None:
    found = compare(hosts({"os.kernel": "6.1"}, {"os.kernel": "6.1"}, {"os.kernel": "6.2"}))
    [entry] = document([ComparedClass("H100", MAJORITY, found)])["classes"]
    difference = {"part": "kernel", "key": "os.kernel", "expected": "6.1", "found": "6.2"}
    assert entry["odd"] == [{"hosts": ["h2"], "differences": [difference]}]
    assert entry["hosts"] == ["h0", "h1", "h2"]
