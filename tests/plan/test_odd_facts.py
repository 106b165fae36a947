"""Facts in unexpected forms give a plan, never a traceback."""

from __future__ import annotations

from provision.core.models.facts import HostFacts, Nvidia, NvidiaGpu, Python
from provision.core.models.settings import Settings
from provision.phases.plan import choose_stacks
from provision.phases.plan.rules import HOST_RULES, RULES
from provision.phases.plan.what_if import parse_what_if


def planned(facts: HostFacts):  # type: ignore[no-untyped-def]
    return choose_stacks({"h": facts}, {"h": Settings()}).classes[0]


def test_a_host_without_known_facts_is_planned_for_the_cpu() -> None:
    resolution = planned(HostFacts(host="h", probed_at=""))
    assert resolution.stack is not None
    assert resolution.stack.vllm is not None
    assert resolution.stack.vllm.variant == "cpu"
    assert len(resolution.assumptions) >= 5


def test_a_python_version_with_a_plus_is_accepted() -> None:
    facts = parse_what_if("gpu=none glibc=2.36")
    facts = facts.model_copy(
        update={"pythons": (Python(path="/usr/bin/python3", version="3.11.2+"), Python(path="/x", version="?"))}
    )
    stack = planned(facts).stack
    assert stack.interpreter.version == "3.11.2"


def test_an_invalid_driver_version_is_assumed_new_enough() -> None:
    card = NvidiaGpu(index=0, name="NVIDIA L4", compute_capability="8.9")
    facts = parse_what_if("glibc=2.36").model_copy(
        update={"nvidia": Nvidia(driver_version="[N/A]", gpus=(card,)), "kernel_modules": ("nvidia",)}
    )
    resolution = planned(facts)
    assert resolution.stack.driver.version is None
    assert "the NVIDIA driver is 580.65.06 or newer" in resolution.assumptions


def test_unknown_cards_are_planned_without_an_error() -> None:
    card = NvidiaGpu(index=0)
    facts = parse_what_if("glibc=2.36").model_copy(update={"nvidia": Nvidia(driver_version="580.82.07", gpus=(card,))})
    resolution = planned(facts)
    assert resolution.stack is not None
    assert any("compute capability is unknown" in text for text in resolution.assumptions)


def test_rules_have_one_id_and_whole_sentences() -> None:
    rules = [*HOST_RULES, *RULES]
    assert len({rule.id for rule in rules}) == len(rules)
    assert all(rule.statement.endswith(".") for rule in rules)
