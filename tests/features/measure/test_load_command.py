"""`./firstlight verify load` and `provision --measure`: what a host is asked for, and what is refused."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from provision.cli.main import app
from provision.core.errors import InventoryError, UsageError
from provision.features.measure import commands, compare, hooks
from provision.pipeline import Batching, CommandRequest
from provision.pipeline import commands as pipeline
from provision.pipeline.phases import BEFORE_PLAN
from provision.run import playbooks
from provision.run.context import RunContext
from provision.run.results import AnsweredHosts, ProbedHosts
from tests.pipeline.local_context import local_context, local_host, own_paths
from tests.plan.test_services import services_of

Asked = list[tuple[str, str, tuple[str, ...], str | None]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What the hosts of commands are asked for: the command, that of the host, its arguments and what it reads."""
    found: Asked = []

    def measure(request: CommandRequest, kind: str, words: Any, stdin: str | None = None, **_: Any) -> int:
        found.append((request.command, kind, tuple(words), stdin))
        return 2

    for module in (commands, hooks):
        monkeypatch.setattr(module, "measure", measure)
    return found


def call(*words: str) -> int:
    """Run a command, and return its exit code. Raises UsageError."""
    done = CliRunner().invoke(app, words)
    if isinstance(done.exception, UsageError):
        raise done.exception
    return done.exit_code


def test_the_options_reach_the_host_and_a_file_of_prompts_goes_with_them(asked: Asked, tmp_path: Path) -> None:
    prompts, empty = tmp_path / "prompts.json", tmp_path / "empty.json"
    prompts.write_text("[]")
    empty.touch()
    assert call("verify", "load") == 2
    assert call("verify", "load", "--rate", "2.5", "--requests", "50", "--dataset", str(prompts)) == 2
    assert call("verify", "load", "--dataset", str(empty)) == 2
    words = ("--rate", "2.5", "--requests", "50", "--dataset", "-")
    assert asked == [
        ("verify", "load", (), None),
        ("verify", "load", words, "[]"),
        ("verify", "load", ("--dataset", "-"), ""),
    ]


def test_hosts_are_waited_for_while_the_requests_of_a_rate_arrive(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    steps: list[Any] = []

    def execute(_request: CommandRequest, given: Any) -> SimpleNamespace:
        steps.extend(given)
        return SimpleNamespace(exit_code=130, result=None)

    monkeypatch.setattr(compare, "execute", execute)
    monkeypatch.setattr(compare, "print_summary", lambda _: 130)
    monkeypatch.chdir(tmp_path)
    assert call("verify", "load", "--rate", "0.5", "--requests", "4000") == 130
    assert steps[-1].run.keywords["limit_s"] == compare.COMPARE_S + 2 * 4000 / 0.5


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("verify", "load", "--dataset", __file__, "--input-tokens", "9"), "the prompts of `--dataset` have their own"),
        (("verify", "load", "--requests", "9"), "`--requests` belongs to --rate or --concurrency"),
        (("provision", "--measure", "--json"), "`--measure` prints tables after the summary"),
        (("provision", "--measure", "--dry-run"), "`--measure` prints tables after the summary"),
    ],
)
def test_options_that_contradict_one_another_are_refused(words: tuple[str, ...], text: str, asked: Asked) -> None:
    with pytest.raises(UsageError) as raised:
        call(*words)
    assert (raised.value.args[0].startswith(text), asked) == (True, [])


def test_a_file_of_prompts_that_is_missing_or_too_large_is_refused(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"missing.json` cannot be read: No such file"):
        call("verify", "load", "--dataset", str(tmp_path / "missing.json"))
    (tmp_path / "large.json").write_text("[]")
    monkeypatch.setattr(commands, "LARGEST_DATASET", 1)
    with pytest.raises(UsageError, match=r"large.json` is larger than"):
        call("verify", "load", "--dataset", str(tmp_path / "large.json"))
    assert asked == []


def test_a_run_that_ends_well_is_followed_by_a_load(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = iter((0, 1, 0))
    monkeypatch.setattr(pipeline, "run", lambda _request: next(codes))
    assert [call("provision", "--measure"), call("provision", "--measure"), call("provision")] == [2, 1, 0]
    assert asked == [("verify", "load", (), None)]


def test_a_load_after_a_run_is_for_all_hosts_at_once_and_leaves_out_those_in_quarantine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    states = {"gpu-1": "green", "gpu-2": "quarantined"}

    def execute(request: CommandRequest, steps: Any) -> Any:
        given.extend((request.batching, tuple(steps)[:-1]))
        hosts = [SimpleNamespace(name=name, is_serving=True, head=name, state=state) for name, state in states.items()]
        document = {"table": [], "exit_code": 0}
        result = AnsweredHosts(answer={"gpu-1": document})
        return SimpleNamespace(exit_code=0, result=result, hosts=hosts, summary=SimpleNamespace(hosts=hosts))

    monkeypatch.setattr(compare, "execute", execute)
    request = CommandRequest("provision", tmp_path, None, {}, tmp_path / "logs", batching=Batching.parse("1", None))
    assert hooks.measured(request) == 0
    assert given == [None, BEFORE_PLAN]


@pytest.mark.parametrize(
    ("names", "asked_of"), [("abc", ["a"]), ("bc", None)], ids=["the head of two", "none that answers"]
)
def test_only_hosts_that_answer_requests_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: str, asked_of: list[str] | None
) -> None:
    """Of `a` and `b`, which serve a model together, `a` answers; `c` serves nothing."""
    context = local_context(tmp_path, "ab", together="ab")
    hosts = tuple(host for host in (*context.inventory.hosts, local_host("c", serve=False)) if host.name in names)
    context.inventory = context.inventory.model_copy(update={"hosts": hosts})
    probed = ProbedHosts({}, dict.fromkeys("abc", own_paths(context.cache)))
    monkeypatch.setattr(playbooks, "acquire_locks", lambda _context, _probed, _phase, hosts: hosts)
    document = {"table": [], "exit_code": 0, "reason": "8 requests answered"}
    monkeypatch.setattr(
        RunContext, "run_on_hosts", lambda _self, _phase, hosts, *_, **__: {host.name: document for host in hosts}
    )

    def execute(_request: CommandRequest, steps: Any) -> Any:
        result = steps[-1].run(context, probed)
        assert list(result.answer) == (asked_of or [])
        return SimpleNamespace(exit_code=0, result=result, hosts=hosts, summary=SimpleNamespace(hosts=[]))

    monkeypatch.setattr(compare, "execute", execute)
    request = CommandRequest("verify", tmp_path, None, {}, tmp_path / "logs")
    with nullcontext() if asked_of else pytest.raises(InventoryError, match="none of these hosts answers requests"):
        assert compare.measure(request, "load", ()) == 0


def test_services_of_a_machine_are_measured_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The services of machine `m` are never measured at once, and one of them is together with machine `z`."""
    context = local_context(tmp_path, "z")
    hosts = (*services_of(a={}, b={}), *context.inventory.hosts)
    context.inventory = context.inventory.model_copy(update={"hosts": hosts})
    probed = ProbedHosts({}, {host.name: own_paths(context.cache) for host in hosts})
    monkeypatch.setattr(playbooks, "acquire_locks", lambda _context, _probed, _phase, hosts: hosts)
    rounds: list[list[str]] = []

    def run_on_hosts(_self: RunContext, _phase: str, hosts: Any, *_: Any, **__: Any) -> dict[str, Any]:
        rounds.append([host.name for host in hosts])
        return {host.name: {"table": [], "exit_code": 0, "reason": "8 requests answered"} for host in hosts}

    monkeypatch.setattr(RunContext, "run_on_hosts", run_on_hosts)
    found = compare._measure_hosts(context, probed, kind="load", words=(), stdin=None, limit_s=1.0)
    assert rounds == [["m@a", "z"], ["m@b"]]
    assert list(found.answer) == ["m@a", "m@b", "z"]
