"""The first screen of a run: failures and causes first, fleets counted, and the command that shows the details."""

import ast
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from provision.core.errors import Exit
from provision.core.models.facts import Cpu
from provision.core.models.inventory import Inventory
from provision.core.models.invocation import Invocation
from provision.core.models.records import Finding, HostSummary, PhaseName, PhaseResult, Summary
from provision.phases.verify.run_checks import CheckOptions
from provision.pipeline import CommandRequest, operations
from provision.pipeline.commands import print_summary
from provision.pipeline.runner import RunOutcome
from provision.report import summarise, wording, write
from provision.report.layout import COLUMNS
from provision.report.screen import LINES, RULE, first_screen_of
from provision.report.text import render
from provision.run.results import CheckedHosts, ProbedHosts
from tests.report.sample import (
    CPU_STACK,
    GPU_STACK,
    SECONDS,
    Folder,
    Terminal,
    check,
    facts,
    host,
    result,
    served,
    summary_of,
)
from verify.records import inapplicable
from verify.tables import table

ROOT = Path(__file__).resolve().parents[2]
RUN = "20261120T101500Z"


def first_screen(folder: Folder) -> list[str]:
    return first_screen_of(folder.text()).splitlines()


def failing(tmp_path: Path, number: int, *, causes: int) -> Folder:
    """Return a run whose hosts each failed for one of that many causes."""
    names = [f"gpu-{place}" for place in range(number)]
    folder = Folder(tmp_path / RUN, [host(name) for name in names])
    for place, name in enumerate(names):
        reason = f"the service ended: reason {place % causes}"
        folder.results(result(name, "probe"), result(name, "serve", "failed", text=reason, hint="look at its log"))
        finding = {"cause": f"cause-{place % causes}", "confidence": 0.9, "evidence": [], "fix": ["repair it"]}
        folder.run.write(f"findings/{name}.json", [finding])
    return folder


@pytest.mark.slow
def test_hosts_in_many_states_keep_to_the_width_when_failures_take_the_lines() -> None:
    causes = [(Finding(cause=f"cause-{number}", confidence=0.9),) for number in range(100)]
    hosts = [
        HostSummary.model_validate({"name": f"{state}-{number}", "state": state, "changed": False, "findings": found})
        for state in sorted(wording.STATE_WORDS)
        for number, found in enumerate(causes)
    ]
    shown = first_screen_of(render(summary_of(*hosts, verdict="red"))).splitlines()
    assert max(map(len, shown)) <= COLUMNS
    assert any(line.lstrip().startswith("and 100 ") and line.endswith(" ...") for line in shown)


@pytest.mark.parametrize("causes", [1, 2, 3, 6, 14])
def test_every_cause_is_shown_once_with_its_hosts(tmp_path: Path, causes: int) -> None:
    shown = first_screen(failing(tmp_path, 28, causes=causes))
    assert len(shown) <= LINES
    for place in range(causes):
        assert sum(bool(re.search(rf"\bcause-{place}\b", line)) for line in shown) == 1


def test_several_causes_keep_their_remedies_while_there_are_lines(tmp_path: Path) -> None:
    assert sum(line == "    fix: repair it" for line in first_screen(failing(tmp_path, 28, causes=6))) == 6


def test_causes_beyond_the_lines_are_counted_and_the_command_for_them_is_named(tmp_path: Path) -> None:
    folder = failing(tmp_path, 60, causes=30)
    shown = first_screen(folder)
    named = {found for line in shown for found in re.findall(r"cause-\d+", line)}
    [left] = re.findall(r"and (\d+) more: \./firstlight logs show --full", "\n".join(shown))
    assert len(shown) == LINES
    assert len(named) + int(left) == 30
    details = folder.text().partition(RULE)[2]
    assert {f"cause-{place}" for place in range(30)} == set(re.findall(r"cause-\d+", details))


def test_one_cause_on_hosts_of_different_kinds_is_shown_once(tmp_path: Path) -> None:
    folder = failing(tmp_path, 4, causes=1)
    for place in range(4):
        known = facts(f"gpu-{place}", gpus=place)
        folder.run.write(f"facts/gpu-{place}.json", known.model_copy(update={"cpu": Cpu(model=f"CPU {place}")}))
    shown = first_screen(folder)
    assert "  gpu-[0:3]" in shown
    assert sum("cause-0" in line for line in shown) == 1


ENDINGS: tuple[tuple[PhaseName, str], ...] = (
    ("install", "failed"),
    ("verify", "failed"),
    ("probe", "unreachable"),
    ("install", "ok"),
)


def test_kinds_of_hosts_beyond_the_lines_are_counted_by_state(tmp_path: Path) -> None:
    names = [f"gpu-{place}" for place in range(40)]
    folder = Folder(tmp_path / RUN, [host(name) for name in names])
    for place, name in enumerate(names):
        folder.results(result(name, "probe"))
        phase, status = ENDINGS[place % 4]
        folder.results(result(name, phase, status, text=f"reason {place}"))
    assert "           and 10 failed, 10 installed" in first_screen(folder)


def test_a_command_that_does_not_fit_is_shown_in_the_details_instead_of_truncated(tmp_path: Path) -> None:
    names = [f"{'inference-' * 12}{place}" for place in range(8)]
    folder = Folder(tmp_path / RUN, [host(name) for name in (*names, "well")])
    for name in names:
        folder.results(result(name, "stage", "interrupted", text="not begun"))
    folder.green("well")
    screen, details = folder.text().split(RULE)
    assert "./firstlight provision" not in screen
    assert "the details have the command" in screen
    assert "./firstlight provision" in details


SKIPS = {
    "devices.ecc": "no NVIDIA GPU on the PCI bus",
    "devices.amd_ecc": "no AMD GPU on the PCI bus",
    "kernels.graph": "CPUs have no kernel graphs",
    "speed.copies": "no GPU to copy to",
    "collectives.nccl": "there are fewer than two GPUs",
    "speed.gemm": "other processes use 40% of the device's 80 GiB, which would distort the measurement",
    "engine.flash_attn": "no flash-attn package is installed, and none is planned",
}


def test_skips_of_a_host_without_a_gpu_are_one_count_and_others_keep_their_reason(tmp_path: Path) -> None:
    folder = Folder(tmp_path / RUN, [host("a", local=True)])
    folder.planned(["a"], CPU_STACK)
    folder.green("a", records=[check(id_, "skip", reason=reason) for id_, reason in SKIPS.items()])
    rows = [line.split(maxsplit=1)[1] for line in folder.text().splitlines() if line.split()[:1] == ["skip"]]
    first, *others = (" ".join(row.split()) for row in rows)
    assert first == "5 checks do not apply: no GPU"
    assert len(others) == 2


@pytest.mark.parametrize(
    ("reasons", "missing"),
    [
        (["no AMD GPU on the PCI bus"], "no AMD GPU"),
        (["no AMD GPU on the PCI bus", "there are fewer than two GPUs"], "no AMD GPU, no second GPU"),
        (["no GPU to copy to", "no AMD GPU on the PCI bus"], "no GPU"),
        (["no NVIDIA GPU on the PCI bus", "no AMD GPU on the PCI bus"], "no GPU"),
    ],
)
def test_missing_devices_of_a_host_are_named(reasons: list[str], missing: str) -> None:
    assert inapplicable(reasons) == (frozenset(reasons), f"do not apply: {missing}")


def test_a_host_with_gpus_that_its_stack_does_not_use_lacks_none() -> None:
    assert inapplicable(["no GPU to copy to", "the plan computes on the CPU"])[0] == frozenset()


def texts_of_checks() -> str:
    """Return all texts of the checks; of composed texts the parts."""
    nodes = (node for path in (ROOT / "verify").rglob("*.py") for node in ast.walk(ast.parse(path.read_text("utf-8"))))
    return "\n".join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


def test_every_reason_of_the_table_is_one_that_a_check_gives() -> None:
    texts, kinds = texts_of_checks(), table("inapplicable")
    assert kinds["unless"] in texts
    for pattern in (pattern for kind in kinds["kind"] for pattern in kind["reasons"]):
        # Texts that name a maker or a kind of device are composed of parts.
        parts = re.split(r"NVIDIA GPUs?|AMD GPUs?| and ", pattern)
        assert all(re.search(part, texts) for part in parts), pattern


def test_a_check_that_warned_is_shown_once(tmp_path: Path) -> None:
    folder = Folder(tmp_path / RUN, [host("a", local=True)])
    folder.green("a", records=[check("libraries.injected", "warn", reason="/opt/x.py: no wheel contains it")])
    folder.results(result("a", "verify", "warn", text="check `libraries.injected`: /opt/x.py: no wheel contains it"))
    assert sum("no wheel contains it" in line for line in first_screen(folder)) == 1


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_gets_the_first_screen_and_a_pipe_the_whole_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    folder = failing(tmp_path, 3, causes=1)
    summary: Summary = summarise(folder.run)
    outcome = RunOutcome(summary, Exit.RED, ProbedHosts(), (), write(folder.run, summary))
    stream = Terminal() if is_terminal else io.StringIO()
    monkeypatch.setattr("sys.stdout", stream)
    print_summary(outcome)
    shown, written = stream.getvalue(), folder.run.path("summary.txt").read_text()
    assert shown == (first_screen_of(written) if is_terminal else written)
    assert (RULE in shown) is not is_terminal
    print_summary(replace(outcome, as_json=True))
    assert stream.getvalue().endswith(folder.run.path("summary.json").read_text())


@pytest.mark.parametrize("is_terminal", [True, False])
def test_verify_on_a_terminal_ends_with_the_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    folder = Folder(tmp_path / RUN, [host("a", local=True)])
    folder.green("a", records=[check("kernel.matmul"), check("host.clock", "warn", remedy="see ./firstlight status")])
    summary = summarise(folder.run)
    documents = {"a": json.loads(folder.run.path("verify/a.json").read_bytes())}
    hosts = tuple(Inventory.model_validate_json(folder.run.path("inventory.json").read_bytes()).hosts)
    outcome = RunOutcome(summary, Exit.OK, CheckedHosts(documents=documents), hosts, write(folder.run, summary))
    stream = Terminal() if is_terminal else io.StringIO()
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setattr(operations, "execute", lambda request, steps: outcome)
    typed = Invocation(inventory="site")
    request = CommandRequest(
        command="verify", inventory=tmp_path, limit=None, overrides={}, logs=tmp_path, invocation=typed
    )
    assert operations.verify(request, CheckOptions("quick")) == 1
    table, _, screen = stream.getvalue().partition("\n\n")
    assert "kernel" in table
    assert "1 ok" in table
    assert "remedy: see ./firstlight status -i site" in table
    assert screen.startswith("AMBER: ") is is_terminal


def test_a_summary_of_an_older_release_is_shown_unchanged() -> None:
    text = "GREEN: 1 host serving\n\nHosts\n  a  serving\n"
    assert first_screen_of(text) == text


def test_a_screen_fits_a_narrow_terminal_and_is_found_from_a_wide_one(tmp_path: Path) -> None:
    folder = Folder(tmp_path / RUN, [host("gpu-1")])
    folder.planned(["gpu-1"], GPU_STACK)
    folder.green("gpu-1", gpus=8)
    summary = tmp_path / "summary.json"
    summary.write_text(summarise(folder.run).model_dump_json())
    code = f"""
from pathlib import Path
from provision.core.models.records import Summary
from provision.report.layout import folded
from provision.report.text import render
print(render(Summary.model_validate_json(Path({str(summary)!r}).read_text())))
print(folded("  refused   vllm-0.33.0 is refused, as the wheels are in `--bundle '/a folder/of mine'` which lacks it"))
"""
    environment = {**os.environ, "COLUMNS": "80"}
    text = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
    long = [line.strip() for line in text.splitlines() if len(line) > 80]
    assert all(line.startswith(("-d '", "'sudo ")) for line in long)  # a quoted word of a command stays whole
    assert text.endswith("""
  refused   vllm-0.33.0 is refused, as the wheels are in `--bundle
            '/a folder/of mine'` which lacks it
""")
    shown = first_screen_of(text)
    assert shown.startswith("GREEN: 1 host serving")
    assert shown.endswith("Details    ./firstlight logs show --full\n")


def serving(folder: Folder, name: str, address: str) -> list[PhaseResult]:
    """Write what is known of a host that serves at an address; return its results."""
    folder.run.write(f"facts/{name}.json", facts(name))
    record = served().model_copy(update={"endpoint": f"http://{address}:8000/v1"})
    folder.run.write(f"serve/{name}.json", record)
    return [result(name, phase) for phase in SECONDS]


@pytest.mark.slow
def test_hundreds_of_hosts_that_serve_or_are_silent_are_a_few_lines(tmp_path: Path) -> None:
    names = [f"gpu-{place:03}" for place in range(300)]
    folder, results = Folder(tmp_path / RUN, [host(name) for name in names]), []
    for place, name in enumerate(names):
        address = f"10.0.{place // 250}.{place % 250 + 1}"
        if place % 50 == 7:
            text = f"no answer from {name} ({address}) port 22 within 10 s"
            results.append(result(name, "probe", "unreachable", text=text, hint=f"ping {address}"))
            continue
        results += serving(folder, name, address)
    folder.results(*results)
    text = folder.text()
    assert text.count("port 22 within 10 s") == 1, "hosts that are silent for one reason are one entry"
    shown = first_screen_of(text)
    request = "http://10.0.0.1:8000/v1/chat/completions"
    assert re.findall(r"http://\S+", shown) == ["http://ADDRESS:8000/v1,", request]
    assert len(shown.splitlines()) <= LINES


def test_hosts_that_are_not_reached_at_addresses_and_ports_of_their_own_share_one_hint(tmp_path: Path) -> None:
    folder = Folder(tmp_path / RUN, [host(name) for name in "abc"])
    folder.results(
        *(
            result(
                name,
                "probe",
                "unreachable",
                text=f"host {name} ({name}.example:{port}) cannot be reached: connection refused",
                hint=f"try it by hand: ssh -o Port={port} -- {name}.example true",
            )
            for name, port in (("a", 22), ("b", 2222), ("c", 22))
        )
    )
    text = folder.text()
    assert (text.count("cannot be reached: "), text.count("try it by hand")) == (1, 1)
    assert "\n  a, b, c\n" in text


def test_a_few_endpoints_are_shown_as_they_are(tmp_path: Path) -> None:
    folder = Folder(tmp_path / RUN, [host(f"gpu-{place}") for place in range(3)])
    for place in range(3):
        name = f"gpu-{place}"
        folder.results(*serving(folder, name, f"10.0.0.{place}"))
    shown = folder.text()
    assert [f"http://10.0.0.{place}:8000/v1" in shown for place in range(3)] == [True] * 3
