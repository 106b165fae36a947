"""One line per family: counts, and the figures that matter most to a reader."""

import re

import pytest

from provision.core.models.records import CheckRecord
from provision.report.group import Headline, families, headlines
from tests.report import sample
from verify.runner.registry import all_checks
from verify.tables import table


def record(
    id_: str, status: str = "ok", reason: str = "", device: str = "cuda:0", figures: dict[str, float] | None = None
) -> CheckRecord:
    found = [{"name": name, "value": value, "unit": ""} for name, value in (figures or {}).items()]
    return sample.record(id_, status, reason=reason, device=device, figures=found)


def lines(*checks: CheckRecord) -> list[tuple[str, str, str]]:
    return list(families(checks))


def test_figures_of_all_devices_are_shown_as_their_range_or_their_worst() -> None:
    found = lines(
        record("speed.memory", figures={"memory, read and written": 3100.0}),
        record("speed.memory", device="cuda:1", figures={"memory, read and written": 2950.0}),
        record("speed.copies", "skip", "no GPU to copy to"),
        record("attention.sdpa_flash", figures={"largest error, float16": 0.9134, "largest error, bfloat16": 0.5}),
        record("attention.vllm_flash_3", "fail", "wrong", figures={"largest error, float16": 7.25}),
    )
    assert found == [
        ("speed", "2 ok, 1 skip", "memory 2950 to 3100 GB/s"),
        ("attention", "1 fail, 1 ok", "errors at most 7.25 times those of plain torch"),
    ]
    [matmul] = lines(record("kernels.gemm", figures={"error, float16": 0.4813, "error, float32": 0.02}))
    assert matmul[2] == "matmul error 48 % of the allowed rounding"


def test_a_card_without_known_speed_floors_is_named() -> None:
    def measured(card: str, floor: float | None, device: str) -> CheckRecord:
        plain = record("speed.memory", device=device, figures={"memory, read and written": 250.0})
        figures = (plain.figures[0].model_copy(update={"floor": floor}),)
        return plain.model_copy(update={"evidence": {"name": card}, "figures": figures})

    (line,) = lines(measured("NVIDIA H200", 3600.0, "cuda:0"), measured("NVIDIA RTX A2000", None, "cuda:1"))
    without_floor = "recorded, no floor is known for NVIDIA RTX A2000: memory, read and written"
    assert line == ("speed", "2 ok", f"memory 250 GB/s; {without_floor}")
    assert (
        "no floor is known"
        not in lines(record("speed.memory", device="cpu", figures={"memory, read and written": 9.0}))[0][2]
    )


def test_a_family_without_figures_shows_its_first_passed_check() -> None:
    found = lines(
        record("engine.flash_attn", "skip", "none is planned"), record("engine.vllm", reason="vLLM 0.32.0 imports")
    )
    assert found == [("engine", "1 ok, 1 skip", "vLLM 0.32.0 imports")]
    assert lines(record("kernels.graph", "skip", "CPUs have no graphs")) == [("kernels", "1 skip", "")]


def test_shares_are_shown_in_percent() -> None:
    [found] = lines(record("operators.softmax", figures={"error, softmax": 0.9974}))
    assert found[2] == "largest error 99 % of the allowed rounding"


def test_large_counts_are_shown_exactly() -> None:
    assert lines(record("libraries.files", figures={"files": 34470.0})) == [
        ("libraries", "1 ok", "34470 files as installed")
    ]


@pytest.mark.parametrize("rule", headlines(), ids=lambda rule: rule.text)
def test_each_headline_belongs_to_existing_checks(rule: Headline) -> None:
    assert [check.id for check in all_checks() if re.fullmatch(rule.check, check.id)]


def test_every_family_has_a_headline() -> None:
    found = {check.family for check in all_checks() for rule in headlines() if re.fullmatch(rule.check, check.id)}
    without_figures = {"engine"}
    assert found == {family["name"] for family in table("families")["family"]} - without_figures
