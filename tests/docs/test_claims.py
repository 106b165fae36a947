"""What README and pages claim holds: a few claims that nothing backed once."""

import json
import re

import pytest
from typer.testing import CliRunner

from docs.generate import ROOT
from docs.generators.sets import measured_sets
from provision.cli.main import app
from provision.core.errors import Exit
from provision.features.firewall.rules import START
from provision.features.monitoring.unit_sets import exporter_set
from provision.phases.plan.rules import HOST_RULES, RULES
from provision.pipeline.phases import STEPS
from tests.features.monitoring.hosts import MONITOR, host

TEXTS = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    if path.name != "causes.md"
}
BACKED = {
    "OpenAI's Python client over TLS": "tests/features/gateway/test_haproxy.py::test_a_client_of_openai_works_over_tls",
    "100 runs, each with": "tests/benchmarks/test_chaos.py",
}
"""Words of a claim, and the test that backs it."""


def test_pages_name_the_consent_by_which_drivers_are_removed() -> None:
    lines = [line for text in TEXTS.values() for line in text.splitlines() if "firstlight uninstall" in line]
    told = [line for line in lines if "OS packages" in line and "drivers" in line]
    assert len(told) == 4
    assert [line for line in told if "--drivers" not in line] == []


def test_latest_is_the_newest_row_of_the_table_of_tested_combinations() -> None:
    shown = CliRunner().invoke(app, ["plan", "--json", "--what-if", "gpu=H100x1 driver=580.95.05 os=ubuntu-24.04"])
    newest = next(row for row in measured_sets() if row["ok"])
    assert json.loads(shown.stdout)["stack"]["vllm"]["version"] == newest["vllm"]
    assert f"{newest['vllm']} {newest['variant']} |" in TEXTS["docs/reference/sets.md"]


def test_the_page_on_the_architecture_has_the_order_of_a_run() -> None:
    assert "    " + " -> ".join(step.name for step in STEPS) + "\n" in TEXTS["docs/architecture.md"]


def test_the_page_on_flash_attention_says_when_nothing_becomes_faster() -> None:
    first = TEXTS["docs/guides/flash-attention.md"].partition("```")[0]
    assert "if it does not ask for attention weights" in first


@pytest.mark.parametrize(("claim", "test"), BACKED.items())
def test_a_claim_has_its_test(claim: str, test: str) -> None:
    assert any(claim in text for text in TEXTS.values()), f"no page claims `{claim}` any more: remove the row"
    file, _, name = test.partition("::")
    assert not name or f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")
    assert (ROOT / file).exists()


def test_the_suite_that_pages_name_is_what_ci_runs() -> None:
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "./firstlight test --all" in ci
    assert '"Test suite" means `./firstlight test --all`' in TEXTS["docs/reference/tested.md"]


def test_a_command_that_disables_several_units_names_none_that_some_hosts_lack() -> None:
    """Where one of them is missing, systemctl disables and stops none."""
    of_gateway, of_both = (
        {*exporter_set(host("h", *groups), [MONITOR], "/p").units} for groups in (["gateway"], ["gpus"])
    )
    missing = {START.unit, *(of_both - of_gateway)}
    named = [words for text in TEXTS.values() for words in re.findall(r"systemctl disable --now ([^`\n]+)", text)]
    commands = [{unit if "." in unit else f"{unit}.service" for unit in words.split()} for words in named]
    assert {START.unit} in commands
    assert {"firstlight-host-metrics.timer"} in commands
    assert [units for units in commands if len(units) > 1 and units & missing] == []


@pytest.mark.parametrize(
    "described", ["gpu=H100x1 driver=580.95.05 os=ubuntu-24.04 ram=1", "gpu=H100x1 glibc=none", "disk=1"]
)
def test_the_page_on_the_plan_explains_each_line_of_a_refused_one(described: str) -> None:
    shown = CliRunner().invoke(app, ["plan", "--what-if", described])
    assert shown.exit_code == Exit.NO_STACK
    labels = set(re.findall(r"^  (\S+) ", shown.stdout, re.MULTILINE))
    page = TEXTS["docs/reference/plan.md"].partition("## The lines of a plan\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([^`]+)`", page))
    rules = {rule.id for rule in (*HOST_RULES, *RULES)}
    assert "| the name of a [rule](../concepts/matching.md#rules)" in page
    assert labels & rules
    assert labels - rules <= named


@pytest.mark.parametrize("command", ["./firstlight provision", "./firstlight test"])
def test_the_readme_shows_both_commands_of_set_up_on_lines_of_their_own(command: str) -> None:
    lines = [line.strip() for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()]
    assert any(line.split(" #")[0].strip() == command for line in lines)
