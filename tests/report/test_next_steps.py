"""The commands that a run suggests: accepted by the parser, for its hosts, and never what just failed."""

import functools
import itertools
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from provision.cli.main import app
from provision.core.models.invocation import POLICY, Invocation
from provision.core.models.records import ENDED_BADLY, PHASES, Finding, HostState, HostSummary, PhaseName, PhaseResult
from provision.report import wording
from provision.report.next_steps import MOST, command_lines, next_commands, purpose

SITE = Invocation(inventory="my site", limit="o1,o2")
REACH = {"o1": "ssh -p 2222 ops@192.0.2.1", "o2": "ssh ops@192.0.2.2"}
COMMANDS = {
    "provision": ("--vllm", "-K"),
    "plan": ("--vllm",),
    "plan --explain": (),
    "stage": ("--vllm",),
    "install": ("--model",),
    "drivers": ("--driver",),
    "serve": ("--attention",),
    "probe": (),
    "verify --level full": (),
    "verify --prefix": ("--prefix",),
    "verify soak --minutes 3": (),
    "status": (),
    "stop": (),
    "rollback": (),
    "uninstall": (),
    "drift": (),
    "doctor --limit o1": (),
    "gateway": (),
    "rollout start": (),
}
"""Commands that end in a summary, each with options of it."""
PARSER: Any = typer.main.get_command(app)


def host(
    name: str, state: HostState = "serving", phase: PhaseName | None = None, *, cause: str = "", **values: Any
) -> HostSummary:
    status = {"unreachable": "unreachable", "interrupted": "interrupted"}.get(state, "failed")
    results = {phase: PhaseResult.model_validate({"host": name, "phase": phase, "status": status})} if phase else {}
    findings = (Finding(cause=cause, confidence=0.95),) if cause else ()
    return HostSummary(
        name=name, state=state, changed=False, phases=results, findings=findings, **{"release": "r2", **values}
    )


def suggested(*hosts: HostSummary, command: str = "provision", typed: Invocation = SITE, **values: Any) -> list[str]:
    return [*next_commands(typed, hosts, command=command, reach=REACH, **values)]


@functools.cache
def parse(command: str) -> tuple[str, dict[str, Any]]:
    """Return the name of a command and its parameters, as the real parser reads it."""
    program, *words = shlex.split(command)
    assert program == "./firstlight"
    found = PARSER
    context = found.make_context("firstlight", words)
    names: list[str] = []
    while hasattr(found, "commands"):
        name, found, words = found.resolve_command(context, [*context._protected_args, *context.args])
        context = found.make_context(name, words, parent=context)
        names.append(name)
    return names[0], context.params


def outcomes() -> Iterator[tuple[str, Invocation, tuple[HostSummary, ...]]]:
    """Yield every combination of a command and how two hosts ended."""
    states: list[HostState] = [*wording.STATE_WORDS]  # type: ignore[list-item]
    endings = [(state, phase) for state in states for phase in (PHASES if state in ENDED_BADLY else (None,))]
    details: tuple[dict[str, Any], ...] = (
        {},
        {"earlier_release": "r1"},
        {"release": None},
        {"cause": "libnuma-missing", "earlier_release": "r1"},
    )
    others = [host("o2"), host("o2", "interrupted", "install"), host("o2", "failed", "verify", cause="port-in-use")]
    for (command, options), (state, phase), detail, other in itertools.product(
        COMMANDS.items(), endings, details, others
    ):
        values = {"--vllm": "==0.30.0", "--model": "org/m", "--prefix": "/srv/x", "--attention": "flash"}
        typed = SITE.model_copy(update={"options": {name: values.get(name) for name in options}})
        typed.options.update({"--driver": "keep"} if "--driver" in options else {})
        endpoint = "http://127.0.0.1:8000/v1" if state == "serving" else None
        yield command, typed, (host("o1", state, phase, endpoint=endpoint, **detail), other)


def test_each_suggestion_is_accepted_for_the_same_hosts_and_is_not_what_failed() -> None:
    seen = set()
    for command, typed, hosts in outcomes():
        found = suggested(*hosts, command=command, typed=typed)
        failed = {each.name for each in hosts if each.state in ("failed", "unreachable")}
        mended: set[str] = set()
        assert len(found) <= MOST
        for entry in found:
            if entry.startswith("ssh "):
                assert entry in REACH.values()
                continue
            if entry == f"./firstlight {command}":  # as it was typed, with its own hosts
                assert failed <= mended
                continue
            name, given = parse(entry)
            seen.add(name)
            if name == "rollout":
                continue
            named = given.get("limit") or given["host"]
            assert str(given["inventory"]) == "my site"
            assert set(named.split(",")) <= {"o1", "o2"}, entry
            mended |= {named} if given.get("apply") else set()
            if name == command.split()[0] and not given.get("back"):
                shows = name == "plan" and (given["explain"] and "--explain" not in command)
                assert shows or not (failed - mended) & set(named.split(",")), (command, entry, hosts)
            if name == "provision":
                wrong = {each.name for each in hosts if each.name in failed - mended}
                bare = {each.name for each in hosts if each.release is None} if command.startswith("verify") else set()
                assert not (wrong - bare) & set(named.split(",")), (command, entry, hosts)
            if name == "rollback":
                assert all(each.earlier_release for each in hosts if each.name in named.split(","))
    assert seen >= {"chat", "doctor", "plan", "provision", "rollback", "rollout", "status", "uninstall", "verify"}


def test_after_a_first_installation_no_release_is_there_to_go_back_to() -> None:
    endpoint = "http://127.0.0.1:8000/v1"
    first = suggested(host("o1", endpoint=endpoint), typed=Invocation())
    assert [entry.split()[1] for entry in first] == ["chat", "verify", "status", "uninstall"]
    later = suggested(host("o1", endpoint=endpoint, earlier_release="r1"), typed=Invocation())
    assert [entry.split()[1] for entry in later] == ["chat", "verify", "status", "rollback"]
    both = suggested(host("o1", earlier_release="r1"), host("o2"))
    assert both[-1] == "./firstlight rollback -i 'my site' --limit o1"


@pytest.mark.parametrize("phase", ["plan", "stage"])
def test_a_refused_version_is_not_suggested_again(phase: PhaseName) -> None:
    typed = SITE.model_copy(update={"options": {"--vllm": "==0.7.0"}})
    found = suggested(host("o1", "failed", phase), host("o2"), command="stage --vllm ==0.7.0", typed=typed)
    assert found == ["./firstlight plan -i 'my site' --limit o1 --explain"]
    assert not any(option in " ".join(found) for option in POLICY)


def test_an_unreachable_host_gets_the_command_that_connects_to_it() -> None:
    assert suggested(host("o1", "unreachable", "probe"), host("o2")) == [REACH["o1"]]
    assert purpose(REACH["o1"]) == "connect"


@pytest.mark.parametrize(("command", "phase"), [("provision", "verify"), ("drivers", "install"), ("verify", "verify")])
def test_a_failed_card_or_kernel_module_is_read_by_the_doctor(command: str, phase: PhaseName) -> None:
    found = suggested(host("o1", "failed", phase), command=command)
    assert found == ["./firstlight doctor -i 'my site' --limit o1"]
    repairs = suggested(host("o1", "failed", phase, cause="nvidia-uvm"), command=command)
    assert repairs[0] == "./firstlight doctor -i 'my site' --limit o1 --apply"
    assert repairs[1].split()[1] == command


def test_an_interrupted_command_is_suggested_again_for_the_hosts_that_it_did_not_reach() -> None:
    [verify] = suggested(host("o1"), host("o2", "interrupted", "verify"), command="verify")
    assert verify == "./firstlight verify -i 'my site' --limit o2"
    [soak] = suggested(host("o1", "interrupted", "verify"), command="verify soak --minutes 3 -i 'my site'")
    assert soak == "./firstlight verify soak --minutes 3 -i 'my site'"
    for typed in ("--level burn-in --hours 24 --drain -i 'my site'", "-i 'my site' --return o1"):
        [again] = suggested(host("o1", "interrupted", "verify"), command=f"verify {typed}")
        assert again == f"./firstlight verify {typed}"
    [rollout] = suggested(host("o1", "interrupted", "serve"), command="rollout start")
    assert rollout == "./firstlight rollout resume"
    root = SITE.model_copy(update={"options": {"-K": None}})
    [rollout] = suggested(host("o1", "interrupted", "serve"), command="rollout start", typed=root)
    assert rollout == "./firstlight rollout resume -K"


def test_a_check_of_a_bare_host_leads_to_provision() -> None:
    bare = host("o1", "failed", "verify", release=None)
    assert suggested(bare, host("o2"), command="verify") == ["./firstlight provision -i 'my site' --limit o1"]
    assert suggested(bare, command="verify", typed=Invocation()) == ["./firstlight provision"]


def test_a_service_that_does_not_start_may_go_back_where_it_can() -> None:
    failed = suggested(host("o1", "failed", "serve", earlier_release="r1"))
    assert [entry.split()[1] for entry in failed] == ["doctor", "rollback"]
    returned = suggested(host("o1", "failed", "serve", earlier_release="r1", refused="r3"))
    assert [entry.split()[1] for entry in returned] == ["doctor"]


@pytest.mark.parametrize(
    ("cause", "confidence", "repairs"),
    [
        ("libnuma-missing", 0.95, True),
        ("libnuma-missing", 0.4, False),
        ("port-in-use", 0.93, False),
        ("no-such-cause", 0.93, False),
    ],
)
def test_a_repairable_cause_is_repaired_before_the_run_is_repeated(
    cause: str, confidence: float, repairs: bool
) -> None:
    failed = host("o1", "failed", "install").model_copy(
        update={"findings": (Finding(cause=cause, confidence=confidence),)}
    )
    doctor = "./firstlight doctor --limit o1"
    expected = [f"{doctor} --apply", "./firstlight provision --limit o1"] if repairs else [doctor]
    assert suggested(failed, host("o2"), typed=Invocation()) == expected


def test_hosts_that_differ_are_compared() -> None:
    assert suggested(host("o1"), host("o2"), differ=True)[0] == "./firstlight drift -i 'my site' --limit o1,o2"


def test_a_run_keeps_its_hosts_and_its_options_in_what_it_suggests() -> None:
    typed = SITE.model_copy(update={"options": {"--vllm": "==0.30.0", "--reboot": None, "-K": None}})
    found = suggested(host("o1", earlier_release="r1"), host("o2", earlier_release="r1"), typed=typed)
    assert found == [f"./firstlight {name} -i 'my site' -K --limit o1,o2" for name in ("verify", "status", "rollback")]
    [again] = suggested(host("o1", "interrupted", "install"), host("o2"), typed=typed)
    assert again == "./firstlight provision -i 'my site' -K --limit o1 --vllm ==0.30.0 --reboot"


def test_another_installation_keeps_its_prefix_in_suggestions() -> None:
    typed = Invocation(inventory="site", options={"--prefix": "/srv/other"})
    assert suggested(host("o1"), command="verify", typed=typed) == ["./firstlight verify -i site --prefix /srv/other"]
    assert suggested(host("o1", "failed", "verify"), command="verify", typed=typed) == []


def test_a_bare_host_that_was_read_is_provisioned_and_another_one_checked() -> None:
    assert suggested(host("o1", "probed", release=None), command="probe")[0].split()[1] == "provision"
    assert suggested(host("o1", "probed"), command="status")[0].split()[1] == "verify"


def test_a_path_keeps_its_blanks_where_a_command_is_printed() -> None:
    command = SITE.model_copy(update={"inventory": "/srv/my  site"}).suggest("status")
    (line,) = command_lines(command)
    assert shlex.split(line) == shlex.split(command)
