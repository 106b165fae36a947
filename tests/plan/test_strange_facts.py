"""Descriptions and recorded facts of impossible hosts: each gives a plan or one usage error."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provision.core.errors import UsageError
from provision.core.models.facts import HostFacts
from provision.core.models.settings import Settings
from provision.phases.plan import choose_stacks
from provision.phases.plan.what_if import parse_what_if, read_facts
from tests.plan.planned import resolve
from tests.strange import JSON, TEXT, changed, paths

H100 = "gpu=H100x2 driver=580.65.06 os=ubuntu-24.04 arch=x86_64 ram=512 disk=900 python=3.12 glibc=2.39 cpu=avx512"
MI300X = "gpu=MI300Xx8 os=ubuntu-22.04 arch=x86_64 ram=512 disk=900 python=3.12 glibc=2.35 cpu=avx512"


def planned(text: str) -> None:
    facts = {entry.host: entry for entry in read_facts(text, where="facts.json")}
    choose_stacks(facts, dict.fromkeys(facts, Settings()))


def document(description: str) -> dict[str, Any]:
    found: dict[str, Any] = parse_what_if(description).model_dump(mode="json")
    return found


def refused(act: Callable[[], object]) -> UsageError | None:
    try:
        act()
    except UsageError as error:
        return error
    return None


@pytest.mark.parametrize("capability", ["abc", "9", "", "9.0.0", "-1.0", "9.0\n", "99999999999999999999.0"])
def test_an_invalid_compute_capability_is_named(capability: str) -> None:
    facts = document(H100)
    facts["nvidia"]["gpus"][0]["compute_capability"] = capability
    error = refused(lambda: planned(json.dumps(facts)))
    assert error
    assert "nvidia.gpus.0.compute_capability" in error.text


def test_endlessly_nested_facts_are_refused() -> None:
    error = refused(lambda: planned("[" * 100_000))
    assert error
    assert "facts.json: no host facts: no JSON" in error.text


@pytest.mark.parametrize("value", ["9" * 400, 10**400], ids=["text", "number"])
def test_a_number_without_end_in_any_place_is_planned_or_refused(value: object) -> None:
    facts = document(H100)
    for path in [*paths(facts)][1:]:
        error = refused(lambda path=path: planned(json.dumps(changed(facts, path, value))))  # type: ignore[misc]
        assert error is None or error.hint


NEW = st.one_of(JSON, TEXT, st.sampled_from(["0", "1.2.3", "v1", "9" * 400, "580", "580.x", "1e9", "-1", " "]))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), description=st.sampled_from([H100, MI300X, H100.replace("gpu=H100x2 driver=580.65.06 ", "")]))
def test_any_value_instead_of_another_is_planned_or_refused(data: Any, description: str) -> None:
    facts = document(description)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(list(paths(facts))[1:]))
        facts = changed(facts, path, data.draw(NEW))
    error = refused(lambda: planned(json.dumps(facts)))
    assert error is None or error.hint


KEYS = ("gpu", "driver", "os", "python", "arch", "cpu", "glibc", "ram", "disk", "container")
VALUES = st.one_of(
    TEXT,
    st.sampled_from(
        [
            *("H100x8", "H100x1,RTX4090x1", "MI300Xx8", "GB200x4", "H100x0", "none"),
            *("ubuntu-22.04", "debian-99", "windows-11", "alpine-3.20", "x-1"),
            *("x86_64", "aarch64", "avx2", "amx", "yes", "no"),
            *("580.65.06", "470", "3.12", "2.99", "999999999.999999999"),
            *("0", "0.0001", "999999999", "1e9", "٣"),
        ]
    ),
)


@settings(max_examples=60, deadline=None)
@given(words=st.lists(st.tuples(st.one_of(st.sampled_from(KEYS), TEXT), VALUES), max_size=6))
def test_any_description_is_planned_or_refused(words: list[tuple[str, str]]) -> None:
    def act() -> None:
        facts = parse_what_if(" ".join(f"{key}={value}" for key, value in words))
        assert isinstance(facts, HostFacts)
        resolve(facts)

    error = refused(act)
    assert error is None or error.hint


@pytest.mark.parametrize(
    ("description", "libc", "version", "python"),
    [
        ("os=ubuntu-22.04", "glibc", "2.35", "3.10"),
        ("os=rhel-9.4", "glibc", "2.34", "3.9"),
        ("os=fedora-44", "glibc", "2.43", "3.14"),
        ("os=sles-15.7", "glibc", "2.38", "3.6"),
        ("os=amzn-2023", "glibc", "2.34", "3.9"),
        ("os=alpine-3.20", "musl", "1.2.5", None),
        ("os=ubuntu-22.04 glibc=2.39 python=3.12.4", "glibc", "2.39", "3.12.4"),
        ("os=debian-99", None, None, None),
    ],
)
def test_a_release_implies_its_c_library_and_python(
    description: str, libc: str | None, version: str | None, python: str | None
) -> None:
    facts = parse_what_if(description)
    assert (facts.os.libc, facts.os.libc_version) == (libc, version)
    assert next((entry.version for entry in facts.pythons), None) == python
    assert ("os.libc" in facts.unknown) == (libc is None)


def test_no_build_is_planned_for_musl() -> None:
    resolution = resolve("os=alpine-3.20 gpu=H100x8 driver=580.65.06 arch=x86_64")
    assert resolution.stack is None
    assert "the host's C library is musl" in resolution.reasons[0].text


@pytest.mark.parametrize("card", ["GB200", "GB300", "GH200", "GB10"])
def test_a_card_on_a_grace_board_implies_the_processors_architecture(card: str) -> None:
    assert parse_what_if(f"gpu={card}x1").os.machine == "aarch64"
    error = refused(lambda: parse_what_if(f"gpu={card}x1 arch=x86_64"))
    assert error
    assert error.hint == "remove arch, or write arch=aarch64"


@pytest.mark.parametrize(
    ("driver", "setting", "given"),
    [
        ("535.183.01", "==2.8.1", None),
        ("550.54.14", "==2.8.1", "2.8.1"),
        ("535.183.01", "==2.8.2", "2.8.2"),
        ("535.183.01", "package", "2.8.3.post1"),
    ],
)
def test_wheels_whose_code_a_driver_cannot_read_are_not_planned(driver: str, setting: str, given: str | None) -> None:
    resolution = resolve(f"gpu=H100x1 driver={driver} os=ubuntu-22.04 arch=x86_64", flash_attn=setting)
    package = resolution.stack.flash_attn.package if resolution.stack else None
    assert (package.version if package else None) == given
    if given is None:
        text = "need driver 550.54.14 or newer; the driver is 535.183.01"
        assert any(text in reason.text for reason in resolution.reasons)
