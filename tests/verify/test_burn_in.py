"""Level burn-in: the verdict over rounds, its continuation after an interruption, and the command without torch."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from verify.records import CheckContext, Figure, as_record
from verify.records import CheckResult as Result
from verify.runner import burn_in
from verify.runner.burn_in import RECORD, STATE, RunningError
from verify.serving.service import start_ticks

ROOT = Path(__file__).resolve().parents[2]
IDS = ("kernels.gemm", "speed.gemm")


def round_of(*, gemm: str = "ok", speed: float = 700.0, device: str = "cuda:0") -> dict[str, Any]:
    """The document of one round: a product that is right or wrong, and the speed of products."""
    results = {
        "kernels.gemm": Result(gemm, f"products are {gemm}"),  # type: ignore[arg-type]
        "speed.gemm": Result("ok", "fast", (Figure("bfloat16 products", speed, "TFLOP/s"),)),
    }
    records = [as_record(id_, "node", device, result, 1.0, level="burn-in") for id_, result in results.items()]
    return {"host": "node", "started_at": "2026-11-01T00:00:00Z", "status": "ok", "checks": records}


def over(
    *rounds: dict[str, Any],
    prefix: Path | None = None,
    hours: float = 2.0,
    gpus: tuple[str, ...] = ("GPU-1",),
    drain: bool = False,
) -> dict[str, Any]:
    """The document of these rounds of an hour each; where they end before the time does, the user interrupts."""
    given = iter(rounds)
    clock = iter(range(0, 3600 * 100, 3600))

    def run_round(_number: int, _text: str) -> dict[str, Any]:
        try:
            return next(given)
        except StopIteration:
            raise KeyboardInterrupt from None

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(time, "monotonic", lambda: float(next(clock)))
        patched.setattr(burn_in, "_gpus", lambda: [*gpus])
        return burn_in.burn_in(run_round, CheckContext(prefix=prefix), IDS, hours, drain=drain)


def of(document: dict[str, Any], id_: str) -> tuple[str, str]:
    (record,) = (record for record in document["checks"] if record["id"] == id_)
    return record["status"], record["reason"]


def test_a_fault_of_one_round_decides_and_is_told_with_its_round() -> None:
    document = over(round_of(), round_of(gemm="fail"), round_of(), round_of(gemm="fail"), hours=4)
    assert document["status"] == "fail"
    assert of(document, "kernels.gemm") == ("fail", "in 2 of 4 rounds, first in round 2: products are fail")
    assert of(document, "speed.gemm") == ("ok", "fast (4 rounds)")
    assert of(document, RECORD) == ("ok", "4 rounds in 4.00 h; no speed is more than 0% behind its median")


@pytest.mark.parametrize(
    ("statuses", "verdict", "text"),
    [
        (("ok", "skip", "skip", "ok"), "warn", "products are ok (2 rounds)"),
        (("skip", "ok", "ok", "ok"), "warn", "products are ok (3 rounds)"),
        (("skip", "skip", "skip", "skip"), "ok", "products are skip"),
    ],
    ids=["in the middle", "in the first", "in all, so that it says so itself"],
)
def test_a_round_in_which_a_check_was_skipped_does_not_count_for_it(
    statuses: tuple[str, ...], verdict: str, text: str
) -> None:
    document = over(*(round_of(gemm=status) for status in statuses), hours=4)
    assert of(document, "kernels.gemm")[1] == text
    assert of(document, "speed.gemm") == ("ok", "fast (4 rounds)")
    ran = f"kernels.gemm on cuda:0 ran in {statuses.count('ok')} of 4 rounds"
    assert of(document, RECORD)[0] == verdict
    assert (of(document, RECORD)[1] == ran) is (verdict == "warn")


@pytest.mark.parametrize(
    ("speeds", "device", "status", "text"),
    [
        ((700, 690, 600), "cuda:0", "warn", "bfloat16 products on cuda:0: the slowest of 3 rounds is 13% behind"),
        ((700, 690, 650), "cuda:0", "ok", "no speed is more than 6% behind its median"),
        ((700, 600), "cuda:0", "ok", "no speeds to compare"),
        ((700, 690, 300), "cpu", "ok", "no speeds to compare"),
    ],
    ids=["a slow round", "noise", "too few rounds", "a CPU"],
)
def test_a_round_that_is_slower_than_the_others_is_a_warning(
    speeds: tuple[float, ...], device: str, status: str, text: str
) -> None:
    rounds = [round_of(speed=speed, device=device) for speed in speeds]
    found = of(over(*rounds, hours=len(rounds)), RECORD)
    assert (found[0], text in found[1]) == (status, True), found


def test_an_interrupted_burn_in_keeps_its_verdict_and_the_next_call_goes_on(tmp_path: Path) -> None:
    first = over(round_of(speed=700), round_of(gemm="warn"), prefix=tmp_path, hours=4)
    assert of(first, RECORD) == ("warn", "interrupted after 2.00 of 4 h, 2 rounds")
    assert of(first, "kernels.gemm") == ("warn", "in 1 of 2 rounds, first in round 2: products are warn")
    later = round_of() | {"started_at": "2026-11-05T00:00:00Z"}
    second = over(round_of(), later, later, prefix=tmp_path, hours=4)
    assert of(second, RECORD)[1].startswith("4 rounds in 4.00 h")
    assert (second["started_at"], second["seconds"]) == ("2026-11-01T00:00:00Z", 4 * 3600.0)
    assert second["last_round"] == {"started_at": "2026-11-05T00:00:00Z", "seconds": 3600.0}
    assert of(second, "kernels.gemm") == ("warn", "in 1 of 4 rounds, first in round 2: products are warn")
    third = over(round_of(), round_of(), prefix=tmp_path)
    assert of(third, RECORD)[1].startswith("2 rounds in 2.00 h"), "a complete one is not continued"


def test_a_burn_in_whose_connection_ended_stops_after_its_round_and_can_go_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    with capfd.disabled():
        kept = os.dup(1)
        os.dup2(writing, 1)
        try:
            heard = over(round_of(), round_of(), prefix=tmp_path / "heard", hours=2)
            os.close(reading)
            first = over(round_of(), round_of(), prefix=tmp_path, hours=2)
        finally:
            os.dup2(kept, 1)
            os.close(kept)
            os.close(writing)
    assert of(first, RECORD)[1] == "interrupted after 1.00 of 2 h, 1 round"
    second = over(round_of(), prefix=tmp_path, hours=2)
    assert [of(document, RECORD)[1].partition(";")[0] for document in (heard, second)] == ["2 rounds in 2.00 h"] * 2


@pytest.mark.parametrize("drain", [True, False])
def test_an_interrupted_burn_in_names_the_command_that_goes_on(drain: bool) -> None:
    *_, record = over(round_of(), hours=24, drain=drain)["checks"]
    assert record["remedy"].endswith(f"--level burn-in --hours 24{' --drain' if drain else ''}")


def test_after_a_failure_or_with_other_checks_or_gpus_a_burn_in_begins_anew(tmp_path: Path) -> None:
    over(round_of(gemm="fail"), prefix=tmp_path)
    document = over(round_of(), prefix=tmp_path)
    assert (document["status"], of(document, RECORD)[1]) == ("warn", "interrupted after 1.00 of 2 h, 1 round")
    state = json.loads((tmp_path / STATE).read_text())
    (tmp_path / STATE).write_text(json.dumps({**state, "asked": {**state["asked"], "checks": ["kernels.gemm"]}}))
    assert "after 1.00 of 2 h" in of(over(round_of(), prefix=tmp_path), RECORD)[1]
    assert "after 1.00 of 2 h" in of(over(round_of(), prefix=tmp_path, gpus=("GPU-2",)), RECORD)[1]


def test_an_interruption_before_the_first_round_ends_is_one_of_the_command(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        over(prefix=tmp_path)


def test_two_burn_ins_of_one_host_at_once_are_refused(tmp_path: Path) -> None:
    other = subprocess.Popen(["sleep", "60"])
    try:
        (tmp_path / "verify").mkdir()
        held = {"pid": other.pid, "start_ticks": start_ticks(other.pid)}
        (tmp_path / STATE).write_text(json.dumps(held))
        with pytest.raises(
            RunningError,
            match=f"process {other.pid} burns this host in; it ends after its round if its connection broke",
        ):
            over(round_of(), prefix=tmp_path)
    finally:
        other.kill()
        other.wait()


def test_ctrl_c_ends_the_command_with_the_verdict_of_its_rounds(tmp_path: Path) -> None:
    """Without torch a round takes a moment, and fails."""
    (tmp_path / "current").symlink_to(sys.prefix)
    command = [sys.executable, "-m", "verify", "--level", "burn-in", "--hours", "1", "--only", "kernels.vector_add"]
    with subprocess.Popen(
        [*command, "--prefix", str(tmp_path), "--json"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as running:
        while not (tmp_path / STATE).exists() or not json.loads((tmp_path / STATE).read_text())["rounds"]["count"]:
            assert running.poll() is None
        os.kill(running.pid, signal.SIGINT)
        output, _ = running.communicate()
    document = json.loads(output)
    assert (running.returncode, document["status"], document["level"]) == (2, "fail", "burn-in")
    status, text = of(document, RECORD)
    assert (status, text.startswith("interrupted after 0.00 of 1 h, ")) == ("warn", True)
