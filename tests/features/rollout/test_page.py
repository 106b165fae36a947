"""The section of a run's page about the rollout that the run belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest

from provision.features.rollout.model import Decision, Rollout, RolloutHost, RolloutState
from provision.features.rollout.store import RolloutStore
from provision.report import page
from tests.report.sample import Folder, host, result

RUN = "20261120T101500Z"
OLD, NEW = "0" * 16, "1" * 16
GOOD = Decision(
    step=0,
    at="2026-11-20T10:16:00Z",
    verdict="go on",
    text="0 of 1512 requests failed",
    requests=1512,
    first_token_s={"new": 0.0301, "old": 0.0312},
    inter_token_s={"new": 0.01234, "old": 0.01111},
    answers=8,
)
BAD = Decision(step=1, at="2026-11-20T10:17:00Z", verdict="roll back", text="5 of 64", requests=64, failed=5)


def section(
    tmp_path: Path,
    state: RolloutState,
    *decisions: Decision,
    runs: tuple[str, ...] = (RUN,),
    taken_back: tuple[str, ...] = (),
) -> str:
    """Return the section's HTML; empty where the page has none."""
    folder = Folder(tmp_path / RUN, [host("gpu-1")])
    folder.results(result("gpu-1", "serve"))
    hosts = [
        RolloutHost(name=f"gpu-{number}", step=min(number - 1, 1), before=OLD, after=NEW, state="updated")
        for number in range(1, 5)
    ]
    if state == "rolled back":
        hosts = [one.model_copy(update={"state": "returned" if one.step == 0 else "waiting"}) for one in hosts]
    hosts = [
        one.model_copy(update={"state": "returned", "returned_to": OLD} if one.name in taken_back else {})
        for one in hosts
    ]
    rollout = Rollout(
        name=RUN,
        inventory="/site",
        steps=(0, 50, 100),
        started_at="2026-11-20T10:15:00Z",
        state=state,
        text="as `it` ended <b>",
        hosts=tuple(hosts),
        decisions=decisions,
        runs=runs,
    )
    RolloutStore(tmp_path).put(rollout)
    return page.render(folder.run).partition('<section id="rollout"')[2].partition("</section>")[0]


def test_each_decision_is_a_row_with_its_numbers(tmp_path: Path) -> None:
    found = section(tmp_path, "done", GOOD, GOOD.model_copy(update={"step": 1, "answers": 0}))
    assert "as <code>it</code> ended &lt;b&gt;" in found
    cells = ["1,512", "0", "30 ms", "31 ms", "12.3 ms", "11.1 ms"]
    assert "".join(f"<td>{cell}</td>" for cell in [*cells, "8", "0"]) in found
    assert "".join(f"<td>{cell}</td>" for cell in [*cells, "", ""]) in found, "no answers were compared"
    assert found.count(">go on<") == 2
    some = section(tmp_path / "some", "done", GOOD.model_copy(update={"answers": 7, "left_out": 1}))
    assert "<td>7 of 8</td><td>0</td>" in some
    assert "run 1 of 1" in found
    assert "<td>no further one</td>" in found, "the last step gives more requests to the same hosts"
    assert '<th scope="row">gpu-[1:4]</th>' in found, "hosts of which the same is to be said"
    assert found.count(NEW) == 1


def test_a_rollout_that_was_taken_back_shows_why_and_where_hosts_are(tmp_path: Path) -> None:
    found = section(tmp_path, "rolled back", GOOD, BAD)
    assert 'badge bad"' in found
    assert "<td>64</td><td>5</td><td></td>" in found
    assert "no decision" in found, "the last step"
    assert "back on the old release" in found
    assert '<th scope="row">gpu-[2:4]</th>' in found


def test_hosts_that_were_taken_back_by_hand_are_named(tmp_path: Path) -> None:
    found = section(tmp_path, "done", GOOD, taken_back=("gpu-2", "gpu-3"))
    assert "2 of 4 hosts were taken back since, by ./firstlight rollback" in found
    assert "taken back by rollback to the old release" in found
    assert '<th scope="row">gpu-2, gpu-3</th>' in found


@pytest.mark.parametrize("damaged", [False, True], ids=["another run", "damaged"])
def test_a_run_without_a_readable_rollout_has_no_section(tmp_path: Path, damaged: bool) -> None:
    if damaged:
        (tmp_path / "rollouts").mkdir()
        (tmp_path / "rollouts" / f"{RUN}.json").write_text("{")
        folder = Folder(tmp_path / RUN, [host("gpu-1")])
        folder.results(result("gpu-1", "serve"))
        assert 'id="rollout"' not in page.render(folder.run)
    else:
        assert section(tmp_path, "done", GOOD, runs=("20261120T101000Z",)) == ""
