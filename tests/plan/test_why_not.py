"""Why a release was not chosen: all reasons against it, not only the first, and the changes that would make it possible."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from provision.core.errors import Exit, UsageError
from provision.core.models.settings import Settings
from provision.phases.plan import choose_stacks
from provision.phases.plan.choose import classes
from provision.phases.plan.explain import WhyNot, render_answers, why_not
from provision.phases.plan.services import part_of
from provision.phases.plan.what_if import parse_what_if
from provision.pipeline import CommandRequest, commands
from provision.run.results import PlannedHosts
from tests.plan.test_services import services_of

R535 = "driver=535.183.01 os=ubuntu-22.04 python=3.10 arch=x86_64 glibc=2.35 ram=1024 disk=500 container=no"


def ask(question: str, line: str, **settings: str) -> WhyNot:
    (answer,) = why_not(question, classes({"h": parse_what_if(line)}, {"h": Settings.model_validate(settings)}))
    return answer


def against(answer: WhyNot) -> set[str]:
    return {reason.rule for item in answer.evaluations for reason in item.reasons if reason.verdict == "reject"}


def test_one_change_makes_a_release_possible() -> None:
    answer = ask("vllm==0.33.0", f"gpu=H100x8 {R535}")
    assert against(answer) == {"driver-floor"}
    assert answer.chosen == "vllm-0.19.1-cu129-torch-cu128"
    assert answer.nearest is not None
    assert answer.nearest.policy == {"driver": "upgrade"}
    assert "vLLM 0.33.0 (cu130)" in answer.nearest.text


def test_every_rule_is_evaluated_after_the_first_refusal() -> None:
    answer = ask("vllm==0.20.0", "gpu=V100x8 driver=535.183.01 os=debian-11 python=3.9 arch=x86_64 glibc=2.31")
    assert {"driver-floor", "glibc", "gpu-code", "attention"} <= against(answer)
    assert answer.nearest is None
    assert "no one or two changes do" in render_answers([answer])


def test_two_changes_together_make_a_release_possible() -> None:
    answer = ask("vllm==0.33.0", f"gpu=H100x8 {R535.replace('2.35', '2.27')}")
    assert {"driver-floor", "glibc"} <= against(answer)
    assert answer.nearest is not None
    assert answer.nearest.text.startswith("with `--driver upgrade` and with a distribution of newer glibc")


def test_the_release_itself_is_never_changed() -> None:
    answer = ask("vllm==0.33.0", f"gpu=T4x1 {R535}", attention="flash")
    assert answer.nearest is not None
    assert "vllm" not in answer.nearest.policy
    assert "vLLM 0.33.0" in answer.nearest.text


@pytest.mark.parametrize(
    ("card", "driver", "verdict", "message"),
    [
        ("H100", "535.183.01", "accept", "`--set cuda_compat=true` would make it possible: cuda-compat-13-0"),
        ("RTX4090", "535.183.01", "reject", "on RTX4090 CUDA fails with error 803 or 804"),
        ("H100", "560.35.03", "reject", "560.35.03 belongs to neither"),
    ],
)
def test_compatibility_libraries_are_named_if_they_help(card: str, driver: str, verdict: str, message: str) -> None:
    answer = ask("vllm==0.33.0", f"gpu={card}x1 {R535.replace('535.183.01', driver)}")
    (reason,) = [reason for item in answer.evaluations for reason in item.reasons if reason.rule == "cuda-compat"]
    assert reason.verdict == verdict
    assert message in reason.text


def test_the_release_is_the_one_in_the_plan() -> None:
    answer = ask("vllm==0.33.0", f"gpu=H100x8 {R535}".replace("535.183.01", "580.95.05"))
    assert answer.nearest is None
    assert "The plan chooses it: vllm-0.33.0-cu130." in render_answers([answer])


def test_the_release_is_possible_and_another_is_preferred() -> None:
    text = render_answers([ask("vllm==0.30.0", f"gpu=H100x8 {R535}", vllm="newest")])
    assert "It is possible: vllm-0.30.0-cu129. The plan chooses vllm-0.31.0-cu129, which ranks higher." in text
    answer = ask("vllm==0.30.0", f"gpu=H100x8 {R535}")
    assert "The plan chooses vllm-0.19.1-cu129-torch-cu128, which ranks higher." in render_answers([answer])
    alone = answer.model_copy(update={"chosen": None})  # as of a release with an advisory, where no other fits
    assert "It is possible: vllm-0.30.0-cu129. The plan chooses it only if it is named." in render_answers([alone])


@pytest.mark.parametrize(
    ("vllm", "says"),
    [
        ("==0.32.0", "`--vllm ==0.32.0` excludes it; the plan chooses vllm-0.32.0-cu130"),
        ("==0.2.0", "`--vllm ==0.2.0` excludes it; the plan chooses nothing, as nothing else fits."),
        ("none", "`--vllm none` excludes it; the plan chooses torch-"),
    ],
)
def test_a_release_that_the_settings_exclude_is_possible_and_does_not_rank_lower(vllm: str, says: str) -> None:
    text = render_answers([ask("vllm==0.33.0", f"gpu=H100x8 {R535.replace('535.183.01', '580.95.05')}", vllm=vllm)])
    assert f"It is possible: vllm-0.33.0-cu130. {says}" in text
    assert "ranks higher" not in text
    assert "None" not in text


def test_a_release_without_a_build_for_this_kind_of_host_is_refused() -> None:
    text = render_answers([ask("vllm==0.32.0", "gpu=MI300Xx8 os=ubuntu-22.04 python=3.12 arch=x86_64 glibc=2.35")])
    assert "the catalog has no build of vllm==0.32.0 for this host" in text


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("0.33.0", "`--why-not 0.33.0` is invalid"),
        ("vllm>=0.33.0", "`--why-not vllm>=0.33.0` is invalid"),
        ("vllm==0.99.0", "the catalog has no vLLM 0.99.0; its newest is 0.33.0"),
    ],
)
def test_an_invalid_question_is_refused(question: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        ask(question, "gpu=L4x1")
    assert message in caught.value.text
    assert caught.value.hint


@pytest.mark.parametrize(("gib", "chosen"), [(3, None), (8, "vllm-0.32.0-cpu-community")])
def test_a_service_is_answered_for_its_part_of_the_machine(
    gib: int, chosen: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"gpu=none os=debian-12 python=3.11 arch=x86_64 cpu=avx512 glibc=2.36 ram={gib} disk=200"
    hosts, facts = services_of(a={}, b={}), parse_what_if(line)
    known = {host.name: facts.model_copy(update={"host": host.name}) for host in hosts}
    parts = {host.name: part_of(host, known[host.name]) for host in hosts}
    planned = PlannedHosts(facts=known, plan=choose_stacks(parts, {host.name: host.settings for host in hosts}))
    summary = SimpleNamespace(hosts=())
    outcome = SimpleNamespace(result=planned, hosts=hosts, summary=summary, exit_code=Exit.OK)
    monkeypatch.setattr(commands, "execute", lambda *_: outcome)
    request = CommandRequest("plan", tmp_path, None, {}, tmp_path / "logs", as_json=True)
    assert commands.plan(request, explain=False, why_not="vllm==0.32.0") == Exit.OK
    [answer] = json.loads(capsys.readouterr().out)["classes"]
    [planned_class] = planned.plan.classes
    assert (answer["hosts"], answer["chosen"]) == (["m@a", "m@b"], chosen)
    assert next((one.id for one in planned_class.candidates if one.accepted), None) == chosen
