"""Errors, plans and summaries of Firstlight have no finding except the cause that they name."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from provision.core.errors import IndexUnreachableError
from provision.core.models.stack import Reason
from provision.phases.plan.explain import render
from provision.phases.stage.candidate_lock import no_lock_error
from tests.plan.cases import CASES, Case
from verify.doctor.engine import diagnose_texts

ROOT = Path(__file__).resolve().parents[2]
VALUES = {
    "python": "3.13",
    "driver": "570.172.08",
    "glibc": "2.36",
    "machine": "x86_64",
    "variant": "cu129",
    "card": "NVIDIA H100",
    "gpu": "NVIDIA H100",
    "host": "gpu-07",
    "path": "/opt/firstlight/envs/1f",
    "folder": "/opt/firstlight",
    "version": "2.13.0",
    "name": "torch",
}
"""Values for the fields of error texts, by a word of the field's expression."""
NAMED = {
    "glibc-too-old": "is older than any that packages are solved for",
    "model-files-corrupt": "is not a safetensors file",
    "platform-no-wheel": "no wheels can be chosen for platform",
    "tp-gt-gpus": "parallel needs",
    "triton-gcc-missing": "has no C++ compiler",
}
"""Causes that error texts describe, by a part of the text."""


def rendered(node: ast.expr | None) -> str | None:
    """Return the text of a literal with values in its fields."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if not isinstance(node, ast.JoinedStr):
        return None
    parts = []
    for part in node.values:
        source = ast.unparse(part.value).lower() if isinstance(part, ast.FormattedValue) else ""
        parts.append(
            next((value for word, value in VALUES.items() if word in source), "7") if source else rendered(part)
        )
    return "".join(part or "" for part in parts)


def errors() -> Iterator[tuple[str, str]]:
    """Yield where each error is raised, and its text with its hint."""
    for path in sorted(path for folder in ("provision", "verify") for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args):
                continue
            text = rendered(node.exc.args[0])
            hint = next((rendered(word.value) for word in node.exc.keywords if word.arg == "hint"), None)
            if text:
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                yield where, f"error: {text}" + (f"\n\nhint: {hint}" if hint else "")


def causes(text: str) -> list[str]:
    return [finding.cause.id for finding in diagnose_texts({"text": text}).findings]


@pytest.mark.slow
def test_error_texts_have_no_wrong_finding() -> None:
    found = [(where, text, causes(text)) for where, text in errors()]
    assert any(text.startswith("error: the catalog has no vLLM") for _, text, _ in found)
    wrong = [
        (where, text, named)
        for where, text, named in found
        if named and not (named[0] in NAMED and NAMED[named[0]] in text)
    ]
    assert not wrong


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_plan_has_no_finding(case: Case) -> None:
    plan = case.plan()
    for explain in (False, True):
        text = render(plan, {case.name: case.settings}, explain=explain)
        text = text.replace(case.name, "gpu-07")  # the cases are named after what they show
        assert causes(text) == [], f"explain={explain}"


def summaries() -> Iterator[str]:
    text = (ROOT / "tests/report/__snapshots__/test_text.ambr").read_text(encoding="utf-8")
    for block in re.findall(r"'''\n(.*?)\n  '''", text, re.DOTALL):
        summary = re.sub(r"^  ", "", block, flags=re.MULTILINE)
        if re.match(r"(?:RED|AMBER|GREEN): ", summary):
            yield summary


@pytest.mark.parametrize("summary", [*summaries()], ids=lambda summary: summary.splitlines()[0])
def test_a_summary_has_no_finding_except_the_cause_that_it_names(summary: str) -> None:
    assert set(causes(summary)) <= set(re.findall(r"cause: ([\w-]+)", summary))


def test_lines_quoted_in_a_summary_are_read() -> None:
    summary = "RED: 1 host failed\n  run 20261121T031500Z, 40 s, 0 hosts changed\n\nWhat failed\n  gpu-07\n    serve: it ended\n"
    quoted = "    | OSError: libnuma.so.1: cannot open shared object file: No such file or directory\n"
    assert causes(summary) == []
    assert causes(f"{summary}{quoted}\nHosts\n  gpu-07  failed\n")[:1] == ["libnuma-missing"]


def test_an_unreachable_index_is_not_taken_for_a_wrong_python() -> None:
    error = IndexUnreachableError({"https://wheels.vllm.ai/0.31.0/cu129": "Connection refused"}, ["vllm 0.31.0"])
    reasons = [
        Reason(rule="index", verdict="reject", candidate=f"vllm-0.3{n}.0-cu129", text=error.text) for n in range(3)
    ]
    assert causes(no_lock_error(reasons).render()) == ["index-unreachable"]
