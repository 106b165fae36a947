"""A rollout from its first step to its end, with failures in between: runs on hosts are substitutes, its record and hooks are real."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from provision.core.errors import Exit, HostLockedError, UsageError
from provision.core.models.inventory import Connection, Inventory
from provision.core.models.invocation import Invocation
from provision.core.run_folder import RunFolder
from provision.features.quarantine.marks import Quarantine, QuarantineStore
from provision.features.rollout import commands as rollout
from provision.features.rollout import driver as rollout_driver
from provision.features.rollout.store import RolloutStore
from provision.pipeline import CommandRequest, operations
from provision.pipeline.runner import RunOutcome
from provision.run.step import Step
from tests.features.rollout.site import NEW, OLD, KilledError, Make, Site

LIMITS = pytest.mark.parametrize("limit", [None, "a,b,c,d"], ids=["all", "without the gateway"])


def test_each_step_switches_its_hosts_and_then_asks_the_gate(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert site.start() == Exit.OK
    assert site.runs == [
        "install a,b,c,d",
        "serve a",
        "gate a,b",
        "serve b",
        "gate a,b,c",
        "serve c,d",
        "gate a,b,c,d",
    ]
    assert set(site.serves.values()) == {NEW}
    record = site.record()
    assert record.runs == tuple(f"20260101T0000{number:02}Z" for number in range(1, len(site.runs) + 1))
    assert (record.state, [host.state for host in record.hosts]) == ("done", ["updated"] * 4)
    assert [(one.step, one.verdict) for one in record.decisions] == [(0, "go on"), (1, "go on"), (2, "go on")]
    assert capsys.readouterr().out.splitlines()[0] == f"rollout {record.name}: done: 4 hosts serve the new release"


def test_the_gate_compares_with_a_host_that_served_the_same_release_before(site: Site) -> None:
    site.serves |= {"a": "another", "d": "another"}
    assert site.start() == Exit.OK
    assert [run for run in site.runs if run.startswith("gate")] == ["gate a,d", "gate a,b,c", "gate a,b,c,d"]
    assert site.alike == ["a", "b", ""]


def test_the_gate_compares_hosts_whose_releases_differ_in_what_names_the_host_alone(site: Site) -> None:
    site.serves = {name: f"of {name}" for name in site.serves}
    state = {"environment": "e1", "model": "m-1", "stack": {"attention": {"backend": "FLASH_ATTN"}}}
    site.states = {"a": state, "b": state | {"model": "m-2"}, "c": state | {"environment": "e1-2"}, "d": {}}
    assert site.start() == Exit.OK
    assert [run for run in site.runs if run.startswith("gate")] == ["gate a,c", "gate a,b,c", "gate a,b,c,d"]
    assert site.alike == ["a", "a", ""]


@LIMITS
def test_a_model_that_gateways_would_not_find_is_refused(site: Site, limit: str | None) -> None:
    site.is_renamed = site.has_gateway = True
    with pytest.raises(UsageError, match="hosts `a`, `b`, `c`, `d` get another model name") as refused:
        site.start(limit=limit)
    assert "firstlight_served_model_name" in (refused.value.hint or "")
    assert (site.runs, set(site.serves.values())) == (["install a,b,c,d"], {OLD})
    site.has_gateway = False
    assert site.start() == Exit.OK, "nothing but the hosts themselves knows the name"


@LIMITS
def test_hosts_of_a_step_share_its_percentage_at_the_gateway(site: Site, limit: str | None) -> None:
    site.has_gateway = True
    assert site.start("1,10,50,100", limit=limit) == Exit.OK
    assert site.runs[1:-1] == [
        "share 0  +a",
        "serve a",
        "share 0 a +",
        "gate a,b",
        "share 1 a +",
        "gate a,b",
        "share 10 a +",
        "gate a,b",
        "share 10 a +b",
        "serve b",
        "share 50 a,b +",
        "gate a,b,c",
        "share 0  +",
        "serve c,d",
        "gate a,b,c,d",
    ]
    assert site.canaries == {}


@pytest.mark.parametrize("staged", [False, True], ids=["one changes", "all in staging"])
def test_a_rollout_whose_last_step_changes_no_host_ends_the_share(site: Site, *, staged: bool) -> None:
    site.has_gateway = True
    site.serves |= dict.fromkeys("bcd", OLD if staged else NEW)
    site.groups = dict.fromkeys(site.serves, ("staging",)) if staged else {}
    assert site.start() == Exit.OK
    assert "share 0  +" in site.runs
    assert (site.record().state, site.canaries) == ("done", {})


@pytest.mark.parametrize("gates", [["roll back"], ["go on", "roll back"]], ids=["without clients", "with a share"])
def test_a_tripped_gate_ends_the_share_before_hosts_go_back(site: Site, gates: list[str]) -> None:
    site.has_gateway, site.gates = True, list(gates)
    assert site.start() == Exit.RED
    shared = ["share 25 a +", "gate a,b"] if len(gates) > 1 else []
    returned = ["share 0 a +", "rollback a", "share 0  +"]
    assert site.runs[3:] == ["share 0 a +", "gate a,b", *shared, *returned]
    assert (site.record().state, site.canaries) == ("rolled back", {})


def test_hosts_that_go_back_have_their_watchdogs_set_up_for_the_former_release(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = list[list[str]]()

    def recorded(request: CommandRequest, steps: Sequence[Step]) -> RunOutcome:
        ran.append([step.name for step in steps])
        return site.execute(request, steps)

    monkeypatch.setattr(rollout_driver, "execute", recorded)
    site.gates = ["roll back"]
    assert site.start() == Exit.RED
    assert ran[-2:] == [["probe", "rollback"], ["probe", "watchdog"]]


def test_a_host_that_does_not_go_back_gets_no_requests_until_a_run_has_proven_it(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """No share is left behind: only a rollout could end it, and this one is over."""
    site.serves["a"] = cast("str", None)
    site.has_gateway, site.bad = True, {"a"}
    assert site.start() == Exit.RED
    record = site.record()
    assert (record.state, record.text) == ("failed", "a: the unit did not start; not on the release of before: a")
    assert (site.canaries, site.drained) == ({}, {"a"})
    left = "left: ./firstlight provision -i /site --limit a  # when a answers; it gets no requests until then"
    assert left in capsys.readouterr().out.splitlines()


def test_a_host_that_cannot_be_reached_for_a_while_takes_nothing_back(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout_driver, "PAUSE_S", 0.0)
    site = make("a", "b")
    site.away = {3: {"a"}, 4: {"a"}}
    assert site.start() == Exit.OK
    assert site.runs[1:6] == ["serve a", "gate a,b", "gate a,b", "gate a,b", "serve b"]
    assert [one.verdict for one in site.record().decisions] == ["go on", "go on"]


def test_a_host_that_stays_away_pauses_the_rollout(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_driver, "thresholds", lambda: {"blind": {"patience_s": 0.0}})
    site = make("a", "b")
    site.away = {2: {"a"}}
    assert site.start() == Exit.RED
    record = site.record()
    assert (record.state, record.text) == (
        "paused",
        "a cannot be reached, which says nothing about the release",
    )
    site.away = {4: {"a"}}
    assert rollout.resume(site.request()) == Exit.RED
    assert (site.record().state, site.record().text) == ("paused", "holds: a cannot be reached")
    assert rollout.resume(site.request()) == Exit.OK
    assert site.serves == {"a": NEW, "b": NEW}


def test_resumed_runs_suggest_commands_for_the_inventory_of_the_rollout(site: Site) -> None:
    site.kill_in(2)
    with pytest.raises(KilledError):
        site.start()
    with_password = replace(site.request(), invocation=Invocation(options={"-K": None}))
    assert rollout.resume(with_password) == Exit.OK
    assert site.suggested == "./firstlight status -i /site -K"


def test_a_rollout_that_was_begun_with_a_sudo_password_does_not_go_on_without_one(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.kill_in(2)
    with_password = replace(site.request(), become_password="rather-secret")
    with pytest.raises(KilledError):
        rollout.start(with_password)
    for command in (rollout.resume, rollout.abort):
        with pytest.raises(UsageError, match="was begun with -K"):
            command(site.request())
    assert len(site.runs) == 2
    rollout.status(site.request())
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "next: ./firstlight rollout resume -K, or ./firstlight rollout abort -K"
    assert rollout.resume(with_password) == Exit.OK


def test_a_model_is_that_of_the_folder_where_the_rollout_was_begun(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "there"):
        (tmp_path / name / "m").mkdir(parents=True)
        (tmp_path / name / "m/config.json").write_text("{}")
    site.kill_in(2)
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(KilledError):
        rollout.start(replace(site.request(), overrides={"model": "./m"}))
    monkeypatch.chdir(tmp_path / "there")
    assert rollout.resume(site.request()) == Exit.OK
    assert {*site.models} == {str(tmp_path / "here/m")}


def test_a_gateway_that_is_silent_pauses_the_rollout_and_stops_no_rollback(site: Site) -> None:
    site.has_gateway, site.silent = True, {6}
    assert site.start() == Exit.RED
    record = site.record()
    assert record.state == "paused"
    assert record.text == "the share of the new release is not known to every gateway: HAProxy does not answer"
    site.silent, site.gates = {9}, ["roll back"]
    assert rollout.resume(site.request()) == Exit.RED
    assert site.runs[6:] == ["share 25 a +", "gate a,b", "share 0 a +", "rollback a", "share 0  +"]
    assert (site.record().state, site.canaries) == ("rolled back", {})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "release", "over"),
    [("resume", NEW, ("done", "4 hosts serve the new release")), ("abort", OLD, ("rolled back", "aborted"))],
)
def test_a_controller_that_is_killed_in_any_run_loses_nothing_and_leaves_no_share_behind(
    make: Make, end: str, release: str, over: tuple[str, str]
) -> None:
    for number in range(2, 20):
        site = make(*"abcd", folder=f"{end}{number}")
        site.has_gateway = True
        site.kill_in(number)
        try:
            assert site.start() == Exit.OK
        except KilledError:
            assert site.record().state == "running"
            with pytest.raises(UsageError, match="is not over: running"):
                site.start()
            assert getattr(rollout, end)(site.request()) == Exit.OK
            assert set(site.serves.values()) == {release}
            assert (site.record().state, site.record().text) == over
            assert site.canaries == {}
        else:
            assert number > 14, "every run was tried"
            break
    else:
        pytest.fail("the rollout has more runs than were tried")


@pytest.mark.parametrize("end", ["resume", "abort"])
@pytest.mark.parametrize(
    "changed", [{"environment": "e2"}, {"model": "m-2"}, {"stack": {"attention": {"backend": "TRITON_ATTN"}}}]
)
def test_a_host_gets_no_other_release_than_the_rollout_began_with(
    site: Site, changed: dict[str, Any], end: str
) -> None:
    begun = {"environment": "e1", "model": "m-1", "stack": {"attention": {"backend": "FLASH_ATTN"}}}
    site.content = begun
    site.during(4, lambda: setattr(site, "content", begun | changed))
    assert site.start() == Exit.RED
    assert site.runs == ["install a,b,c,d", "serve a", "gate a,b", "serve b"]
    assert site.serves == {"a": NEW, "b": OLD, "c": OLD, "d": OLD}
    record = site.record()
    assert record.state == "paused"
    assert (record.text or "").startswith("b would get another environment, model or attention")
    site.content = begun | {"environment": "e1-2"}
    assert getattr(rollout, end)(site.request()) == Exit.OK
    assert set(site.serves.values()) == {NEW if end == "resume" else OLD}


@pytest.mark.parametrize("is_named", [True, False], ids=["in the limit", "outside of it"])
@pytest.mark.parametrize("around", ["gateway", "monitoring"])
def test_a_host_outside_the_rollout_that_fails_at_its_end_is_named_and_pauses_nothing(
    make: Make, around: str, capsys: pytest.CaptureFixture[str], *, is_named: bool
) -> None:
    site = make("a", "b", "m", "z")
    site.has_gateway, site.groups["m"] = around == "gateway", ("monitoring",)
    site.away = {number: {"m", "z"} for number in range(2, 20)}
    assert site.start("100", limit=f"a,b,m,{around}" if is_named else "a,b") == Exit.OK
    assert site.runs[-1] == "firewall a,b,m,z", "what stands around the hosts learns what they serve"
    assert {"m: unreachable", "z: unreachable"} <= {*capsys.readouterr().err.splitlines()}


def test_a_host_of_the_rollout_that_fails_at_its_end_pauses_it(make: Make) -> None:
    site = make("a", "b", "m")
    site.groups["m"], site.away = ("monitoring",), {4: {"b"}}
    assert site.start("100") == Exit.RED
    text = "all hosts serve the new release, and not all was set up for it: b: unreachable"
    assert (site.record().state, site.record().text) == ("paused", text)
    assert rollout.resume(site.request()) == Exit.OK
    assert site.runs[4:] == ["firewall a,b,m"]


def test_a_quarantined_host_is_in_no_step(site: Site) -> None:
    site.quarantined = {"a"}
    assert site.start() == Exit.OK
    assert site.runs == ["install a,b,c,d", "serve b", "gate b,c", "serve c", "gate b,c,d", "serve d", "gate b,c,d"]
    assert site.serves == {"a": OLD, "b": NEW, "c": NEW, "d": NEW}


def test_a_host_that_is_quarantined_meanwhile_is_left_out_and_takes_nothing_back(site: Site) -> None:
    site.during(2, partial(site.quarantined.add, "a"))
    assert site.start() == Exit.OK
    assert site.runs == ["install a,b,c,d", "serve a", "serve b", "gate b,c", "serve c,d", "gate b,c,d"]
    record = site.record()
    assert [host.state for host in record.hosts] == ["quarantined", "updated", "updated", "updated"]
    assert record.text == "3 hosts serve the new release"


def test_a_quarantined_host_counts_as_none_that_serves(site: Site) -> None:
    site.quarantined = {"a"}
    [host, *_] = site.inventory(site.request()).hosts
    mark = Quarantine(at="2026-01-01T00:00:00Z", check="devices.ecc", text="uncorrected errors")
    QuarantineStore(site.logs).put(host, mark)
    assert site.start("100", min_serving=2) == Exit.OK
    assert site.runs[1:] == ["serve b", "serve c", "serve d", "gate b,c,d"]


def test_hosts_of_group_staging_come_first(make: Make) -> None:
    site = make("a", "b", "s")
    site.groups["s"] = ("staging",)
    assert site.start("100") == Exit.OK
    assert site.runs[1:] == ["serve s", "gate a,s", "serve a,b", "gate a,b,s"]


def test_each_step_holds_for_its_own_time(site: Site) -> None:
    site.groups["a"] = ("staging",)
    assert site.start("25:1h,50,100:2h", hold=600.0) == Exit.OK
    assert site.holds == [600.0, 3600.0, 600.0, 7200.0]
    assert site.record().steps == (0, 25, 50, 100)
    assert site.record().holds_s == {25: 3600.0, 100: 7200.0}


def test_no_more_hosts_change_at_once_than_the_load_allows(site: Site) -> None:
    assert site.start("100", min_serving=2) == Exit.OK
    assert site.runs[1:] == ["serve a,b", "serve c,d", "gate a,b,c,d"]


@pytest.mark.parametrize("stays", [False, True])
def test_a_failed_host_rolls_all_changed_hosts_back(site: Site, *, stays: bool) -> None:
    site.bad, site.stays_bad = {"c"}, stays
    assert site.start() == Exit.RED
    assert site.runs[-1] == "rollback a,b,c,d"
    assert set(site.serves.values()) == {OLD}
    record = site.record()
    assert (record.state, record.text) == ("rolled back", "c: the unit did not start")
    assert [host.state for host in record.hosts] == ["returned"] * 4


def test_a_host_that_returned_is_not_failed_by_its_watchdog(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.gates, site.has_gateway, site.blind = ["roll back"], True, {"a"}
    assert site.start() == Exit.RED
    assert (site.record().state, site.record().host("a").state) == ("rolled back", "returned")
    assert (site.watched, site.drained) == (["a"], set())
    assert "a: no agent" in capsys.readouterr().err.splitlines()


def test_hosts_of_any_number_go_back_in_one_run_without_a_probe_of_the_new_release(make: Make) -> None:
    """How long it takes does not depend on how many hosts changed: one start of the old release, on all at once."""
    names = [f"h{number:02}" for number in range(40)]
    site = make(*names)
    site.bad = {names[-1]}
    assert site.start() == Exit.RED
    failed = next(place for place, run in enumerate(site.runs) if run.startswith("serve") and names[-1] in run)
    assert site.runs[failed + 1 :] == [f"rollback {','.join(names)}"]


def test_a_failed_gate_rolls_changed_hosts_back_and_does_not_change_the_others(site: Site) -> None:
    site.gates = ["go on", "roll back"]
    assert site.start() == Exit.RED
    assert site.runs[-2:] == ["gate a,b,c", "rollback a,b"]
    assert [host.state for host in site.record().hosts] == ["returned", "returned", "waiting", "waiting"]
    assert site.record().text == "3 of 600 requests failed"


def test_a_gate_that_cannot_see_pauses_the_rollout_and_is_asked_again(site: Site) -> None:
    site.gates = ["undecided"]
    assert site.start() == Exit.RED
    assert (site.record().state, site.serves["a"], site.runs[-1]) == ("paused", NEW, "gate a,b")
    assert rollout.resume(site.request()) == Exit.OK
    assert site.runs[3:5] == ["gate a,b", "serve b"]


def test_nothing_is_done_if_every_host_is_up_to_date(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.serves = dict.fromkeys(site.serves, NEW)
    assert site.start() == Exit.OK
    assert site.runs == ["install a,b,c,d"]
    assert "done: every host serves this release already" in capsys.readouterr().out
    assert RolloutStore(site.logs).newest() is None


def test_a_controller_killed_during_a_rollback_continues_it_after_resume(site: Site) -> None:
    site.gates = ["roll back"]
    site.kill_in(4)
    with pytest.raises(KilledError):
        site.start()
    assert site.record().state == "returning"
    assert rollout.resume(site.request()) == Exit.RED
    assert (site.record().state, set(site.serves.values())) == ("rolled back", {OLD})


def test_an_interrupted_rollback_says_what_continues_it(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    site.gates = ["roll back"]
    site.during(4, interrupt)
    assert site.start() == Exit.INTERRUPTED
    assert site.record().state == "returning"
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "next: ./firstlight rollout resume, or ./firstlight rollout abort"


def test_hooks_run_before_and_after_each_change_even_if_it_fails(make: Make, tmp_path: Path) -> None:
    site = make("a", "b")
    site.bad = {"b"}
    log = tmp_path / "hooks"
    before, after = (f'echo "{when} $FIRSTLIGHT_HOST $FIRSTLIGHT_ADDRESS" >> {log}' for when in ("before", "after"))
    assert site.start("50,100", before_host=before, after_host=after) == Exit.RED
    lines = [f"{when} {name} {name}" for name in ("a", "b") for when in ("before", "after")]
    both = [f"before {name} {name}" for name in ("a", "b")] + [f"after {name} {name}" for name in ("b", "a")]
    assert log.read_text().splitlines() == [*lines, *both]


@pytest.mark.parametrize(
    "hook", ["curl -u admin:rather-secret https://lb.example/ready", "LB_TOKEN=rather-secret ./ready.sh"]
)
@pytest.mark.parametrize("option", ["before_host", "after_host"])
def test_a_hook_with_a_secret_is_refused_as_the_record_would_lose_it(site: Site, option: str, hook: str) -> None:
    with pytest.raises(UsageError, match=f"`--{option.replace('_', '-')}` has a secret"):
        site.start(**{option: hook})
    assert site.runs == []


@pytest.mark.parametrize(
    ("name", "value", "option"),
    [
        ("vllm", "https://me:rather-secret@index.example/simple", "--vllm"),
        ("source_index", ["https://me:rather-secret@index.example/simple"], "--set source_index"),
    ],
)
def test_an_option_with_a_secret_is_refused_as_the_record_would_lose_it(
    site: Site, name: str, value: object, option: str
) -> None:
    with pytest.raises(UsageError, match=f"`{option}` has a secret"):
        rollout.start(replace(site.request(), overrides={name: value}))
    assert site.runs == []


@pytest.mark.parametrize(
    ("vllm", "is_index"),
    [
        ("https://wheels.example/nightly", True),
        ("https://wheels.example/vllm-0.33.1.dev5-cp38-abi3-manylinux_2_28_x86_64.whl", False),
        ("0.33.1.dev5", False),
    ],
)
def test_an_index_whose_newest_wheel_may_change_between_the_steps_is_refused(
    site: Site, vllm: str, *, is_index: bool
) -> None:
    request = replace(site.request(), overrides={"vllm": vllm})
    if is_index:
        with pytest.raises(UsageError, match="hosts `a`, `b`, `c`, `d` are to get the newest vLLM of an index"):
            rollout.start(request)
        assert site.runs == []
    else:
        assert rollout.start(request) == Exit.OK


def test_hooks_start_in_the_folder_where_the_rollout_was_started(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make("a", "b")
    started, elsewhere = tmp_path / "started", tmp_path / "elsewhere"
    for folder in (started, elsewhere):
        folder.mkdir()
    monkeypatch.chdir(started)
    assert site.start("100", before_host="test -e there || exit 3; touch $FIRSTLIGHT_HOST") == Exit.RED
    (started / "there").touch()
    monkeypatch.chdir(elsewhere)
    assert rollout.resume(site.request()) == Exit.OK
    assert sorted(path.name for path in started.iterdir()) == ["a", "b", "there"]


def test_a_hook_that_fails_after_one_host_runs_for_the_others(make: Make, tmp_path: Path) -> None:
    site = make("a", "b")
    assert site.start("100", after_host=f"touch {tmp_path}/$FIRSTLIGHT_HOST; false") == Exit.RED
    assert {path.name for path in tmp_path.iterdir()} >= {"a", "b"}
    assert (site.record().state, site.record().text) == (
        "paused",
        "the hook after host `a` ended with 1: it printed nothing",
    )


def test_a_failed_hook_pauses_the_rollout_and_the_host_is_not_changed(make: Make) -> None:
    site = make("a", "b")
    before = "echo the balancer is away >&2; exit 7"
    assert site.start("50,100", before_host=before) == Exit.RED
    assert site.runs == ["install a,b"]
    record = site.record()
    assert (record.state, record.text) == ("paused", "the hook before host `a` ended with 7: the balancer is away")


@pytest.mark.parametrize(("wish", "state"), [("pause", "paused"), ("abort", "rolled back")])
def test_a_request_takes_effect_before_the_next_host(site: Site, wish: str, state: str) -> None:
    codes: list[int] = []
    site.during(2, lambda: codes.append(getattr(rollout, wish)(site.request())))
    assert site.start() == Exit.RED
    assert codes == [Exit.OK]
    assert site.record().state == state
    assert site.serves["b"] == OLD
    if wish == "pause":
        assert rollout.resume(site.request()) == Exit.OK
        assert set(site.serves.values()) == {NEW}


@pytest.mark.parametrize(("wish", "release"), [("pause", NEW), ("abort", OLD)])
@pytest.mark.parametrize("verdict", ["go on", "undecided"])
def test_a_request_during_the_last_gate_ends_it(site: Site, wish: str, release: str, verdict: str) -> None:
    site.gates = ["go on", "go on", verdict]
    site.during(7, lambda: getattr(rollout, wish)(site.request()))
    assert site.start() == Exit.RED
    assert (site.runs[6], site.is_interrupted) == ("gate a,b,c,d", True)
    record = site.record()
    assert record.state == ("paused" if wish == "pause" else "rolled back")
    assert record.text == ("a pause was requested" if wish == "pause" else "aborted")
    assert set(site.serves.values()) == {release}


@pytest.mark.parametrize(("wish", "release"), [("pause", NEW), ("abort", OLD)])
def test_a_request_while_the_fleet_is_set_up_at_the_end_ends_it(site: Site, wish: str, release: str) -> None:
    site.groups["m"] = ("monitoring",)
    site.serves["m"] = OLD
    site.during(8, lambda: getattr(rollout, wish)(site.request()))
    assert site.start() == Exit.RED
    assert site.runs[7] == "firewall a,b,c,d,m"
    assert site.record().state == ("paused" if wish == "pause" else "rolled back")
    assert {site.serves[name] for name in "abcd"} == {release}
    if wish == "pause":
        assert rollout.resume(site.request()) == Exit.OK
        assert (site.runs[8:], site.record().state) == (["firewall a,b,c,d,m"], "done")


def test_only_one_process_controls_a_rollout(site: Site) -> None:
    with RolloutStore(site.logs).locked(), pytest.raises(HostLockedError, match="another process"):
        site.start()
    assert site.runs == []


def test_status_names_each_host_and_each_decision(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    site = make("a", "b")
    assert rollout.status(site.request()) == Exit.OK
    assert capsys.readouterr().out == "there was no rollout yet\n"
    site.gates = ["go on", "roll back"]
    site.start("50,100")
    capsys.readouterr()
    rollout.status(site.request())
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"      50 %  a  went back to release {OLD}",
        "            gate: go on: 3 of 600 requests failed",
        f"     100 %  b  went back to release {OLD}",
        "            gate: roll back: 3 of 600 requests failed",
        "next: ./firstlight doctor -i /site --limit a  # shows why",
        "then: ./firstlight rollout -i /site  # with another release, or after a repair",
    ]
    rollout.status(replace(site.request(), as_json=True))
    document = json.loads(capsys.readouterr().out)
    assert (document["state"], document["driven"]) == ("rolled back", False)


def test_status_says_which_hosts_a_rollback_took_back_after_the_rollout(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    site = make("a", "b")
    site.start("50,100")

    def status() -> list[str]:
        capsys.readouterr()
        rollout.status(site.request())
        return [line for line in capsys.readouterr().out.splitlines() if "gate:" not in line]

    done = f"rollout {site.record().name}: done: 2 hosts serve the new release"
    host_a = f"      50 %  a  serves release {NEW}, before it {OLD}"
    assert operations.rollback(site.request(limit="b")) == Exit.OK
    taken_back = [
        f"{done}; 1 of 2 hosts was taken back since, by ./firstlight rollback",
        host_a,
        f"     100 %  b  served release {NEW}, taken back to release {OLD} by run 20260101T000006Z",
    ]
    assert status() == taken_back
    site.bad = {"b"}
    assert operations.rollback(site.request(limit="b")) == Exit.RED
    assert status() == taken_back, "the release of the rollout did not start"
    site.bad = set()
    assert operations.rollback(site.request(limit="b")) == Exit.OK
    assert status() == [done, host_a, f"     100 %  b  serves release {NEW}, before it {OLD}"]


@pytest.mark.parametrize(("address", "state"), [("10.0.0.1", "returned"), ("10.0.0.2", "updated")])
def test_a_rollback_of_a_host_of_the_same_name_elsewhere_is_not_noted(make: Make, address: str, state: str) -> None:
    site = make("a", "b")
    site.start("50,100")
    runs = (site.record().name, f"20260101T0000{len(site.runs) + 1:02}Z")
    for name, reached in zip(runs, ("10.0.0.1", address), strict=True):
        [host] = site.inventory(site.request(limit="b")).hosts
        host = host.model_copy(update={"connection": Connection(kind="ssh", address=reached)})
        (site.logs / name).mkdir()
        RunFolder(site.logs / name).write("inventory.json", Inventory(source="/site", hosts=(host,)))
    assert operations.rollback(site.request(limit="b")) == Exit.OK
    assert site.record().host("b").state == state


def test_a_rollback_does_not_need_a_rollout_nor_a_readable_record(make: Make) -> None:
    site = make("a")
    assert operations.rollback(site.request()) == Exit.OK
    assert not (site.logs / "rollouts").exists()
    (site.logs / "rollouts").mkdir(parents=True)
    (site.logs / "rollouts/20260101T000000Z.json").write_text("{")
    assert operations.rollback(site.request()) == Exit.OK


def test_a_paused_rollout_goes_on_without_a_host_that_was_taken_back(make: Make) -> None:
    site = make("a", "b")
    site.gates = ["go on", "undecided"]
    site.start("50,100")
    assert site.record().state == "paused"
    operations.rollback(site.request(limit="a"))
    assert rollout.resume(site.request()) == Exit.OK
    assert site.runs[-1] == "gate b", "the host of the old release is not observed as one of the new"
    assert (site.serves, site.record().text) == ({"a": OLD, "b": NEW}, "1 host serves the new release")
