"""Sets that were tried come first, and the others say that nobody did."""

import pytest

from docs.generators.proven import generate
from provision.catalog import catalog
from provision.core.models.stack import Resolution
from provision.phases.plan.explain import render
from provision.phases.plan.what_if import parse_what_if
from tests.plan.planned import plan_of, resolve, texts_of

HOPPER = "gpu=H100x1 os=ubuntu-24.04 python=3.12 cpu=avx512 glibc=2.39 ram=256 disk=500 container=no"


def chosen(found: Resolution) -> str:
    return found.candidates[0].id


def warned(found: Resolution) -> list[str]:
    return texts_of(found, "proven", "warn")


def test_latest_is_the_newest_set_that_was_tried() -> None:
    tried = {row.set for row in catalog().proven}
    found = resolve(f"{HOPPER} driver=570.172.08 arch=x86_64")
    assert chosen(found) in tried
    assert not warned(found)
    newest = resolve(f"{HOPPER} driver=570.172.08 arch=x86_64", vllm="newest")
    assert chosen(newest) == "vllm-0.31.0-cu129" not in tried
    assert warned(newest) == ["this combination is untested on x86_64: it was never installed there"]


BOUGHT = [
    *("B300", "GB300", "B200", "GB200", "GB10", "RTXPRO6000", "RTXPRO5000", "RTXPRO4500", "RTXPRO4000"),
    *("RTX5090", "RTX5080", "RTX5070Ti", "RTX5070", "RTX5060Ti", "RTX5060"),
    *("GH200", "H200NVL", "H200", "H100NVL", "H100", "L40S", "L4", "RTX6000Ada"),
    *("MI300X", "MI325X", "MI350X", "MI355X", "AIPROR9700", "RX9070XT", "RX9060XT"),
]
"""GPUs that people buy new, by generation."""


@pytest.mark.parametrize("card", BOUGHT)
@pytest.mark.parametrize("more", ["", " os=ubuntu-24.04"])
def test_a_new_card_gets_a_tested_combination_or_the_first_lines_say_what_is_untested(card: str, more: str) -> None:
    facts = parse_what_if(f"gpu={card}x1{more}")
    plans = plan_of(facts)
    option = plans.classes[0].candidates[0]
    machine = facts.os.machine or "x86_64"
    first = render(plans, {}).partition("  assumed ")[0]
    assert len(first.splitlines()) <= 15
    assert "no combination of versions fits" not in first
    tested = (option.id, machine) in {(row.set, row.machine) for row in catalog().proven}
    assert ("  tested       this combination was" in first) is tested
    assert (f"  warning      this combination is untested on {machine}" in first) is not tested


@pytest.mark.parametrize(
    "line",
    [f"{HOPPER} driver=570.172.08 arch=aarch64", "gpu=MI300Xx8 rocm=7.2.2 os=ubuntu-24.04 python=3.12 arch=x86_64"],
)
def test_where_no_set_was_tried_the_newest_is_taken_with_a_warning(line: str) -> None:
    found = resolve(line)
    assert chosen(found) == chosen(resolve(line, vllm="newest"))
    assert warned(found)


def test_what_was_tried_on_one_architecture_is_tested_on_no_other() -> None:
    arm, x86 = (f"{HOPPER} driver=580.95.05 arch={machine}" for machine in ("aarch64", "x86_64"))
    assert not warned(resolve(x86, vllm="==0.32.0"))
    assert warned(resolve(arm, vllm="==0.32.0")) == [
        "this combination is untested on aarch64: it was never installed there"
    ]
    assert "was installed and loaded on an emulated Arm host without a GPU" in texts_of(resolve(arm), "proven")[0]


def test_a_release_that_is_asked_for_is_taken_whether_it_was_tried_or_not() -> None:
    assert chosen(resolve(f"{HOPPER} driver=570.172.08 arch=x86_64", vllm="==0.31.0")) == "vllm-0.31.0-cu129"


def test_what_served_on_a_card_says_so() -> None:
    found = resolve(f"{HOPPER} driver=580.95.05 arch=x86_64", vllm="==0.26.0")
    text = "this combination served a model with checked answers on NVIDIA H100 80GB HBM3 and NVIDIA H200"
    assert texts_of(found, "proven") == [text]
    assert 'how = "served"' in generate()
