"""Shapes of `plan --json`, and facts read back."""

import json

import pytest

from provision.core.errors import UsageError
from provision.core.models.settings import Settings
from provision.phases.plan import choose_stacks
from provision.phases.plan.explain import to_json
from provision.phases.plan.what_if import parse_what_if, read_facts
from tests.plan.cases import CASES

KEYS = {"schema_version", "changes", "hosts", "stack", "reasons", "assumptions", "candidates", "nearest"}


def test_the_plan_of_one_host_is_at_the_top_level() -> None:
    document = to_json(choose_stacks({"h": parse_what_if("gpu=L4x1 driver=580.65.06")}, {"h": Settings()}), {"h": ()})
    assert set(document) == KEYS
    assert document["changes"] == {"h": []}
    assert document["stack"]["vllm"]["version"] == "0.33.0"
    assert document["hosts"] == ["h"]
    assert {"rule", "verdict", "candidate", "facts", "text", "source"} == set(document["reasons"][0])


def test_the_plan_of_several_hosts_has_classes() -> None:
    facts = {"a": parse_what_if("gpu=L4x1"), "b": parse_what_if("gpu=L4x1"), "c": parse_what_if("gpu=none glibc=none")}
    document = to_json(choose_stacks(facts, dict.fromkeys(facts, Settings())), {})
    assert [entry["hosts"] for entry in document["classes"]] == [["a", "b"], ["c"]]
    assert document["classes"][1]["stack"] is None
    assert document["classes"][1]["nearest"]["text"]
    assert all(KEYS - {"schema_version", "changes"} == set(entry) for entry in document["classes"])


@pytest.mark.parametrize("case", CASES[::7], ids=lambda case: case.name)
def test_recorded_facts_give_the_same_plan(case) -> None:  # type: ignore[no-untyped-def]
    (again,) = read_facts(case.facts.model_dump_json(), where="facts.json")
    assert choose_stacks({"h": again}, {"h": case.settings}) == choose_stacks({"h": case.facts}, {"h": case.settings})


def test_the_output_of_probe_is_read() -> None:
    cases = [case.facts.model_copy(update={"host": name}) for case, name in zip(CASES, "ab", strict=False)]
    text = json.dumps([facts.model_dump(mode="json") for facts in cases])
    assert [facts.host for facts in read_facts(text, where="facts.json")] == ["a", "b"]
    with pytest.raises(UsageError, match=r"facts\.json: no host facts: 1\.probed_at: Field required"):
        read_facts(text[: text.index('{"schema', 2)] + '{"schema_version": 1, "host": "b"}]', where="facts.json")


def test_keys_that_another_version_kept_are_passed_over() -> None:
    facts = CASES[0].facts.model_dump(mode="json")
    older = facts | {"gpu_processes": [], "user": facts["user"] | {"systemd_manager": True}}
    assert read_facts(json.dumps(older), where="facts.json") == read_facts(json.dumps(facts), where="facts.json")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": 3}', '{"host": "a", "surprise": 1}'])
def test_malformed_facts_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_facts(text, where="facts.json")
    assert caught.value.text.startswith("facts.json: no host facts: ")
