"""A mutation run: the kernels themselves are broken by one part in a hundred, below the checks, and each check must notice.

Nothing here asks a check to spoil its own observation (that is what `--inject` does): torch's operators answer wrongly while it runs.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.verify.in_torch.bent import Broken
from verify import small_llama
from verify.checks.engine import answers
from verify.inputs import DTYPES
from verify.records import Check, Context, Outcome
from verify.registry import all_checks
from verify.tables import table

CHECKS = {check.id: check for check in all_checks()}
KERNELS = [
    ("kernels.vector_add", "aten::add"),
    ("kernels.gemm", "aten::mm"),
    ("kernels.gemm_8bit", "aten::_int_mm"),
    ("kernels.gemm_8bit", "aten::_scaled_mm"),
    ("attention.sdpa_flash", "aten::_scaled_dot_product_flash_attention_for_cpu"),
]
"""The operator that each check is about; float64, which references are computed in, stays right."""


def asked(check: Check) -> Outcome:
    return check.run(Context(level="quick", device="cpu"))


@pytest.mark.parametrize(("check", "operator"), KERNELS)
def test_a_kernel_that_is_off_by_a_hundredth_is_noticed(check: str, operator: str) -> None:
    assert asked(CHECKS[check]).status == "ok"
    with Broken(operator) as broken:
        outcome = asked(CHECKS[check])
    assert broken.hits
    assert outcome.status == "fail", outcome.reason
    assert asked(CHECKS[check]).status == "ok"


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_product_of_one_precision_alone_is_noticed_and_named(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verify.checks.kernels.gemm.DTYPES", (dtype,))
    with Broken("aten::mm") as broken:
        outcome = asked(CHECKS["kernels.gemm"])
    assert broken.hits
    assert outcome.status == "fail"
    assert dtype in outcome.reason


def test_a_kernel_that_is_off_now_and_then_is_outvoted() -> None:
    with Broken("aten::mm", every=3) as broken:  # two products a vote: the first one of the second vote
        outcome = asked(CHECKS["kernels.bit_vote"])
    assert broken.hits
    assert outcome.status in ("warn", "fail")


def test_log_probabilities_that_are_off_by_a_hundredth_are_noticed() -> None:
    """As vLLM computes on CPUs, in float32: every token is right, and its probability is not."""
    model = small_llama.tiny()
    prompts = answers.prompts(model.config["vocab_size"])[:3]
    bound = table("tolerances")["engine"]["float32"]
    for prompt, answer in zip(prompts, answers._own(model, prompts), strict=True):
        exact = model.logprobs([*prompt, *answer.tokens])[len(prompt) - 1 : -1].tolist()
        assert answers.judge(answer, exact, bound)[0] is None
        wrong = replace(answer, logprobs=tuple(said * 1.01 for said in answer.logprobs))
        assert answers.judge(wrong, exact, bound)[0]


def test_every_check_of_results_is_broken_here_or_by_injection() -> None:
    timed = {"collectives.pairs"}
    numeric = {
        check.id
        for check in all_checks()
        if check.family in ("kernels", "attention", "operators", "collectives") or check.id == "engine.answers"
    } - timed
    assert {check.id for check in all_checks() if "wrong-result" in check.faults} == numeric
    assert {check for check, _ in KERNELS} < numeric
