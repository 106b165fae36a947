"""The content of the page: its order, and what it shows only once."""

from pathlib import Path

from provision.core.run_folder import RunFolder
from provision.report import page, summarise
from provision.report.page import render_page
from provision.report.page.hosts import evidence_lines
from provision.report.page.view import Page
from tests.report.page import fleets
from tests.report.sample import GPU_STACK, Folder, check, document, host, record, result


def test_failures_come_before_everything_else(content: Page) -> None:
    assert content.tone == "bad"
    assert [id_ for id_, _ in content.sections] == [
        "failed", "endpoint", "warnings", "next", "hosts", "gpus", "serving", "measured", "checks", "stack",
    ]  # fmt: skip
    assert [problem.names for problem in content.problems] == ["gpu-017", "gpu-042", "gpu-058"]
    assert content.problems[1].first.findings[0].cause == "port-in-use"
    assert [line.host.name for line in content.ordered[:5]] == ["gpu-017", "gpu-042", "gpu-058", "gpu-071", "gpu-001"]


def test_the_endpoint_and_the_reasons_for_an_amber_run_come_first(tmp_path: Path) -> None:
    folder = Folder(tmp_path / fleets.RUN, [host(f"gpu-{number}") for number in (1, 2, 3)])
    names = ["gpu-1", "gpu-2", "gpu-3"]
    assert GPU_STACK.vllm
    newer = GPU_STACK.model_copy(update={"vllm": GPU_STACK.vllm.model_copy(update={"version": "0.27.0"})})
    folder.planned(names, newer)
    folder.staged(names, GPU_STACK)
    for name in names:
        folder.green(name, gpus=8)
    late = check(
        "devices.clock", "warn", device=None, reason="the clock is 41 s off", remedy="timedatectl set-ntp true"
    )
    folder.run.write("verify/gpu-2.json", document([late]))
    amber = Page(summarise(folder.run))
    assert (amber.tone, [id_ for id_, _ in amber.sections[:3]]) == ("warning", ["endpoint", "warnings", "next"])
    assert [text for text in amber.warnings if "clock" in text] == [
        "gpu-2: check devices.clock: the clock is 41 s off; hint: timedatectl set-ntp true"
    ]
    assert any("planned vLLM 0.27.0" in text for text in amber.warnings)


def test_the_host_that_differs_is_at_the_top(content: Page) -> None:
    reason = "gpu-071 cuda:2: other bits than the like devices give"
    odd = [
        record(id_, status, host=None, device=None, reason=reason)
        for id_, status in (("fleet.alike", "ok"), ("fleet.network", "warn"), ("kernels.determinism", "fail"))
    ]
    summary = content.summary.model_copy(update={"host_comparison": tuple(odd)})
    assert Page(summary).warnings[0] == f"check kernels.determinism: {reason}"
    assert f"check fleet.network: {reason}" in Page(summary).warnings
    assert reason in render_page(page=Page(summary))


def test_a_warning_names_its_host_and_what_to_do(content: Page) -> None:
    (text,) = content.warnings
    assert text.startswith("gpu-071: check speed.gemm: ")
    assert text.endswith(f"; hint: {fleets.SLOW_REMEDY}")


def test_filters_count_the_hosts_that_they_show(content: Page) -> None:
    counts = {key: hosts for key, _, _, hosts in content.states}
    assert counts == {"unreachable": 1, "failed": 2, "serving": 97, "warning": 1}


def test_equal_hosts_are_one_class(content: Page) -> None:
    assert [each.names for each in content.classes] == ["gpu-[001:016], gpu-[018:096]", "cpu-[1:4]", "gpu-017"]
    assert [reason.rule for reason in content.classes[0].chosen] == ["driver", "arch", "attention"]
    assert [reason.candidate for reason in content.classes[0].refused] == [
        "vllm-0.27.0-cu131",
        "vllm-0.32.0-cpu-official",
    ]


def test_the_load_is_measured_by_a_command_that_the_parser_takes(content: Page) -> None:
    commands = ("./firstlight verify -i site --return", "./firstlight verify -i site")
    measured = Page(content.summary.model_copy(update={"next_commands": commands})).measure
    assert measured == "./firstlight verify -i site --only serving --level full"


def test_skipped_checks_are_listed_below_the_others(tmp_path: Path) -> None:
    folder = Folder(tmp_path / fleets.RUN, [host("a", local=True)])
    folder.green("a")
    shown, _, apart = page.render(folder.run).partition('<section id="checks"')[2].partition("Skipped <b>1</b>")
    assert "kernel.matmul" in shown
    assert "attention.flash" not in shown
    assert "no CUDA device" in apart.partition("</section>")[0]


def test_a_failed_check_shows_its_evidence(content: Page) -> None:
    line = next(line for line in content.hosts if line.host.name == "gpu-058")
    assert [(check.id, tuple(evidence_lines(check.evidence))) for check in line.wrong] == [
        ("kernels.gemm", ("call: a @ b against float64 on the CPU", "shapes: [[256, 512, 192], [127, 1000, 65]]"))
    ]


def test_a_run_without_a_length_still_has_a_page(tmp_path: Path) -> None:
    folder = Folder(tmp_path / fleets.RUN, [host("a")])
    folder.run.write("run.json", {"run": fleets.RUN, "command": "probe", "started_at": ""})
    folder.results(result("a", "probe", seconds=0.0))
    fleets.end(folder.run)
    text = page.render(folder.run)
    assert "probed, nothing changed" in text
    assert "none was chosen" not in text


def test_the_verdict_is_the_one_that_the_run_gave(large: RunFolder, tmp_path: Path) -> None:
    assert "interrupted" not in page.render(large).partition("<header")[2].partition("</header>")[0]
    folder = Folder(tmp_path / fleets.RUN, [host("a")])
    folder.results(result("a", "probe"))
    assert "interrupted" in page.render(folder.run).partition("<header")[2].partition("</header>")[0]
