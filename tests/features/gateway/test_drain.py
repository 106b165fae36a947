"""`./firstlight gateway drain | ready | status`, and restarts behind a gateway: a real HAProxy before stub engines on this machine."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from provision.core.errors import FirstlightError
from provision.core.models.inventory import Connection, Host
from provision.core.models.invocation import Invocation
from provision.core.models.records import PhaseResult
from provision.core.models.settings import Settings
from provision.features.gateway import commands as gateway_commands
from provision.features.gateway import draining, restarts
from provision.features.gateway.draining import NO_ROLLOUT, Answers, kept_out, reconcile, wait_until_empty
from provision.features.gateway.hooks import served_again
from provision.features.gateway.restarts import Restarts
from provision.features.gateway.traffic import Traffic
from provision.features.rollout.model import RolloutState
from provision.features.rollout.store import RolloutStore
from provision.pipeline import CommandRequest
from provision.run.context import RunOptions
from tests.features.gateway.running import Site, running, under_load
from tests.features.rollout.site import recorded
from tests.fleet.command_runner import CommandRunner
from tests.pipeline.test_verify import context_of
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.long(seconds=40),
    pytest.mark.skipif(os.geteuid() != 0, reason="a gateway belongs to root"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A gateway before two hosts with a model and one with another; tests leave it as it was."""
    with running(tmp_path_factory.mktemp("gateway"), {"h1": "m", "h2": "m", "x": "o"}) as made:
        yield made


def local(site: Site, **variables: Any) -> dict[str, Any]:
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    return {**here, "firstlight_prefix": str(site.folder), **variables}


@dataclass(frozen=True)
class Said:
    """How a command ended, with what it printed or the error that the command line prints."""

    code: int
    out: str = ""
    error: str = ""
    hint: str = ""


@dataclass
class Commands:
    """`./firstlight gateway ...` in this process."""

    site: Site
    capsys: pytest.CaptureFixture[str]

    def __call__(
        self, command: Callable[..., int], *names: str, gateways: dict[str, Any] | None = None, **options: Any
    ) -> Said:
        path, logs = inventory(self.site, self.site.folder, gateways), self.site.folder / "logs"
        as_json, invocation = options.pop("as_json", False), Invocation(inventory=str(path))
        request = CommandRequest("gateway", path, None, {}, logs, as_json=as_json, invocation=invocation)
        self.capsys.readouterr()
        try:
            code = command(request, *([names] if names else []), **options)
        except FirstlightError as error:
            return Said(error.exit_code, error=error.text, hint=str(error.hint))
        return Said(code, self.capsys.readouterr().out)

    def drain(self, *names: str, **options: Any) -> Said:
        return self(gateway_commands.drain, *names, **{"within": 0, "force": False, **options})

    def ready(self, *names: str) -> Said:
        return self(gateway_commands.ready, *names)

    def status(self, **options: Any) -> Said:
        return self(gateway_commands.status, **options)


@pytest.fixture
def commands(site: Site, capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(site, capsys)


def inventory(site: Site, folder: Path, gateways: dict[str, Any] | None = None) -> Path:
    serving = {name: local(site) for name in ("h1", "h2", "h3", "x")}
    groups = {"gateway": {"hosts": gateways or {"gate": local(site)}}, "serving": {"hosts": serving}}
    path = folder / "hosts.yml"
    path.write_text(json.dumps({"all": {"children": groups}}))
    return path


def states(site: Site) -> dict[str, str]:
    return {one.host: one.state for one in site.traffic().hosts}


@contextmanager
def open_stream(site: Site, name: str) -> Iterator[Iterator[str]]:
    """A stream of which a host has sent one token, and sends the others when its stub is stepped."""
    other = {"h1": "h2", "h2": "h1"}[name]
    site.traffic(drain=[other])
    with site.stubs[name].in_mode("stepwise"):
        stream = site.begin_stream(name)
        site.traffic(ready=[other])
        yield stream


def test_a_drained_host_ends_its_streams_and_gets_nothing_new(site: Site, commands: Commands) -> None:
    with open_stream(site, "h1") as stream:
        assert commands.drain("h1") == Said(0, "h1: drained at gate; 1 request still running\n")
        assert {site.chat().host for _ in range(10)} == {"h2"}
        site.stubs["h1"].step(4)
        assert list(stream) == ["1 ", "2 ", "3 ", "4 ", "end"]
    [gate] = json.loads(commands.drain("h1", as_json=True).out)["gateways"]
    [h1, h2, x] = gate["hosts"]
    assert (h1["state"], h1["sessions"], h1["share"]) == ("drained", 0, 0.0)
    assert (h2["state"], h2["share"], x["share"]) == ("up", 100.0, 100.0)
    assert commands.ready("h1") == Said(0, "h1: takes requests again at gate\n")
    [change] = [json.loads(line) for line in (site.folder / "logs/latest/changes.jsonl").read_text().splitlines()]
    assert (change["how"], change["host"], change["ready"]) == ("traffic", "gate", ["h1"])
    assert {site.chat().host for _ in range(10)} == {"h1", "h2"}


def test_a_drain_waits_for_the_streams_of_the_process_before_a_reload_too(site: Site, tmp_path: Path) -> None:
    with open_stream(site, "h1") as stream:
        site.reload(replace(site.gateway, clients={**site.gateway.clients, "more": "sk-more"}))
        command = CommandRunner(tmp_path / "logs")
        waiting = command.start("gateway", "drain", "h1", "-i", str(inventory(site, tmp_path)))
        wait_until(lambda: states(site)["h1"] == "drained", "it is never drained")
        assert waiting.poll() is None
        site.stubs["h1"].step(4)
        assert list(stream)[-1] == "end"
        ended = command.end(waiting)
    assert (ended.code, ended.out) == (0, "h1: drained at gate; no request is left\n"), ended.output()
    site.traffic(ready=["h1"])


def test_who_is_drained_stays_so_over_a_reload_with_other_hosts_and_a_restart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(tmp_path, {"h1": "m", "h2": "m", "x": "a"}) as site:
        commands = Commands(site, capsys)
        assert commands.drain("h1").code == 0
        site.reload(replace(site.gateway, backends=tuple(one for one in site.gateway.backends if one.name != "x")))
        assert states(site) == {"h1": "drained", "h2": "up"}, "the number of the model changed with the reload"
        assert {site.chat().host for _ in range(10)} == {"h2"}
        site.stop()
        site.start()
        wait_until(lambda: site.chat().status == 200, "it never answers")
        assert {site.chat().host for _ in range(10)} == {"h2"}
        site.wait("h2", "UP")
        shown = commands.status().out.splitlines()
        assert [line.split()[1:3] for line in shown[2:]] == [["h1", "drained"], ["h2", "up"]]
        assert commands.ready("h1").code == 0
        site.reload(replace(site.gateway, clients={"one": "sk-client-one"}))
        assert states(site) == {"h1": "up", "h2": "up"}


def test_the_last_host_of_a_model_is_drained_by_force_only(site: Site, commands: Commands) -> None:
    refused = commands.drain("x")
    assert (refused.code, refused.error) == (2, "gateway `gate` would have no host for model `o` without `x`")
    assert "--force" in refused.hint
    assert commands.drain("h1", "h2").code == 2
    assert set(states(site).values()) == {"up"}, "nothing was changed"
    assert commands.drain("x", force=True).code == 0
    assert (site.chat("o").status, site.chat("m").status) == (503, 200)
    assert commands.ready("x").code == 0
    assert site.chat("o").status == 200


def test_a_host_that_is_not_behind_it_is_named(site: Site, commands: Commands) -> None:
    for name, text in (("h11", "the inventory has no host `h11`"), ("h3", "host `h3` is behind no gateway")):
        refused = commands.drain("h2", name)
        assert (refused.code, text in refused.error) == (2, True)
    assert states(site)["h2"] == "up"


def test_all_gateways_drain_or_none(site: Site, commands: Commands, tmp_path: Path) -> None:
    gateways = {"gate": local(site), "gate2": local(site, firstlight_prefix=str(tmp_path))}
    refused = commands(gateway_commands.drain, "h1", within=0, force=False, gateways=gateways)
    assert refused.code == 1
    assert refused.error.startswith("gateway `gate2` is not set up")
    assert refused.error.endswith("nothing was changed")
    assert states(site)["h1"] == "up"
    shown = commands.status(gateways=gateways, as_json=True)
    document = json.loads(shown.out)
    assert shown.code == 1
    assert [one["gateway"] for one in document["gateways"]] == ["gate"]
    assert [one["host"] for one in document["missing"]] == ["gate2"]


def test_a_gateway_that_fails_while_others_drain_takes_the_others_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    with running(tmp_path, {"h1": "m", "h2": "m"}) as site:
        settings = site.gateway.settings.model_copy(update={"gateway_port": site.gateway.settings.gateway_port + 1})
        folder = str(tmp_path / "other")
        other = replace(site.gateway, settings=settings, run_folder=folder, folder=f"{folder}/gateway")
        second = Site(tmp_path / "other", other, site.stubs, site.process)
        second.write()
        second.start()
        try:
            second.wait("h1", "UP")
            second.wait("h2", "UP")
            # Its figures can be read, and what is drained cannot be written.
            (tmp_path / "other/gateway/drained.json.new").mkdir()
            gateways = {"gate": local(site), "gate2": local(second)}
            refused = Commands(site, capsys).drain("h1", gateways=gateways)
            assert refused.code == 1
            assert refused.error.startswith("gateway `gate2`: ")
            assert refused.error.endswith("drained.json.new: Is a directory; nothing was changed")
            assert (states(site)["h1"], states(second)["h1"]) == ("up", "up")
        finally:
            second.stop()


def test_haproxy_that_does_not_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(tmp_path, {"h1": "m", "h2": "m"}) as site:
        site.stop()
        refused = Commands(site, capsys).drain("h1")
        assert refused.code == 1
        assert "HAProxy does not answer" in refused.error
        assert "systemctl status firstlight-gateway.service" in refused.hint
        site.start()
        site.wait("h1", "UP")
        assert states(site)["h1"] == "up", "the drain that failed is not remembered"


def test_an_interrupted_drain_says_how_the_host_comes_back(site: Site, tmp_path: Path) -> None:
    with open_stream(site, "h1") as stream:
        command = CommandRunner(tmp_path / "logs")
        waiting = command.start("gateway", "drain", "h1", "-i", str(inventory(site, tmp_path)))
        wait_until(lambda: states(site)["h1"] == "drained", "it is never drained")
        ended = command.end(waiting, send=signal.SIGINT)
        assert ended.code == 130, ended.output()
        assert f"./firstlight gateway ready h1 -i {tmp_path / 'hosts.yml'}" in ended.err
        site.stubs["h1"].step(4)
        assert list(stream)[-1] == "end"
    site.traffic(ready=["h1"])


class Run:
    """A run that restarts hosts behind a gateway; the restart itself is a stand-in."""

    def __init__(self, site: Site, folder: Path, **settings: Any) -> None:
        connection = Connection(kind="local", python_interpreter=sys.executable)
        wanted = Settings(prefix=str(site.folder), **settings)
        self.gate = Host(name="gate", connection=connection, settings=wanted)
        self.context = context_of(folder, *site.stubs)
        self.context.options = RunOptions(find_gateways=partial(list, [self.gate]))
        self.hosts = [*self.context.inventory.hosts]
        self.restarts = Restarts(self.context)

    def finish(self, name: str, status: Any = "ok") -> None:
        self.context.record(PhaseResult(host=name, phase="serve", status=status))

    def notes(self, name: str) -> tuple[str, ...]:
        return self.context.outcomes.results[name]["serve"].notes


def longer(found: list[int], count: int) -> bool:
    return len(found) > count


def test_a_run_restarts_hosts_in_turn_and_no_request_is_lost(tmp_path: Path) -> None:
    with running(tmp_path, {"h1": "m", "h2": "m"}) as site:
        made = Run(site, tmp_path)
        waves = made.restarts.turns(made.hosts)
        assert [[host.name for host in wave] for wave in waves] == [["h1"], ["h2"]]
        with under_load(site) as statuses:
            for wave in waves:
                [host] = made.restarts.before(wave)
                assert states(site)[host.name] == "drained"
                more = partial(longer, statuses, len(statuses) + 20)
                site.stubs[host.name].restart()
                made.finish(host.name)
                wait_until(more, "no more load")
                assert site.stubs[host.name].seen() == [], "it got a request while it was drained"
                made.restarts.after(wave, serving={host.name}, proven=())
                assert states(site)[host.name] == "up"
        assert (set(statuses), len(statuses) > 40) == ({200}, True)
        assert made.notes("h1") == ()


def test_requests_that_do_not_end_are_counted_and_a_single_host_restarts_as_it_is(site: Site, tmp_path: Path) -> None:
    made = Run(site, tmp_path, gateway_drain_seconds=0)
    h1, _, x = made.hosts
    with open_stream(site, "h1") as stream:
        assert made.restarts.before([h1, x]) == [h1, x]
        assert states(site) == {"h1": "drained", "h2": "up", "x": "up"}
        site.stubs["h1"].step(4)
        list(stream)
    for host in (h1, x):
        made.finish(host.name)
    made.restarts.after([h1, x], serving={"h1", "x"}, proven=())
    assert made.notes("h1") == ("requests that did not end within 0 s and were cut off: 1",)
    assert made.notes("x") == ("clients of `o` got errors during the restart: no other host serves it",)
    assert set(states(site).values()) == {"up"}


def test_a_run_tells_what_an_operator_drained_and_leaves_it_alone(site: Site, tmp_path: Path) -> None:
    site.traffic(drain=["h1"])
    made = Run(site, tmp_path)
    made.restarts.before(made.hosts[:1])
    made.finish("h1")
    made.restarts.after(made.hosts[:1], serving={"h1"}, proven=())
    assert states(site)["h1"] == "drained"
    assert made.notes("h1") == ("an operator drained it at the gateway gate: ./firstlight gateway ready h1",)
    [traffic], changed = reconciled(made)
    assert (traffic.out(), changed) == ({"h1": "drained by an operator"}, {})
    assert kept_out(made.context, made.gate, traffic) == []
    site.traffic(ready=["h1"])


def test_requests_of_one_gateway_are_waited_for_while_another_is_down(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Run(site, tmp_path)
    traffic = site.traffic()
    busy = replace(traffic, hosts=tuple(replace(one, sessions=2) for one in traffic.hosts))
    down: dict[str, BaseException] = {"gate-2": FirstlightError("no answer")}
    answers = iter([Answers({"gate": busy}, down), Answers({"gate": busy}, down), Answers({"gate": traffic}, down)])
    monkeypatch.setattr(draining, "ask", lambda *_: next(answers))
    monkeypatch.setattr(draining, "POLL_S", 0.0)
    assert wait_until_empty(made.context, [made.gate], ["h1"], 60.0).traffics == {"gate": traffic}
    monkeypatch.setattr(draining, "ask", lambda *_: Answers({}, down))
    assert wait_until_empty(made.context, [made.gate], ["h1"], 60.0).errors == down


def reconciled(made: Run) -> tuple[list[Traffic], dict[str, PhaseResult]]:
    traffics, changed = reconcile(made.context, [made.gate])
    return [*traffics.values()], changed


@pytest.mark.parametrize("state", ["failed", "paused", None])
def test_a_share_is_ended_when_its_host_was_proven_and_its_rollout_is_known_to_be_over(
    site: Site, tmp_path: Path, state: RolloutState | None
) -> None:
    if state is not None:
        RolloutStore(tmp_path / "logs").put(recorded("updated", state=state))
    site.traffic(canary={"h1": 0, "x": 0})
    made = Run(site, tmp_path)
    made.finish("h1")
    made.restarts.after(made.hosts[:1], serving={"h1"}, proven={"h1"})
    kept = {"h1": "canary", "h2": "up", "x": "canary"}
    assert states(site) == (kept | {"h1": "up"} if state == "failed" else kept)
    assert [*map(len, made.notes("h1"))] == ([len(NO_ROLLOUT)] if state == "failed" else [])
    site.traffic(canary={})


@pytest.mark.parametrize("state", ["failed", "paused", None])
def test_a_gateway_that_is_set_up_ends_shares_of_a_rollout_that_is_known_to_be_over(
    site: Site, tmp_path: Path, state: RolloutState | None
) -> None:
    if state is not None:
        RolloutStore(tmp_path / "logs").put(recorded("updated", state=state))
    site.traffic(canary={"h1": 0, "x": 0})
    made = Run(site, tmp_path)
    made.finish("x", "failed")
    [traffic], changed = reconciled(made)
    left = {"x": "canary, 0 %"} | ({} if state == "failed" else {"h1": "canary, 0 %"})
    assert (traffic.out(), site.traffic().out()) == (left, left)
    texts = [(one.changed, one.text) for one in changed.values()]
    assert texts == ([(True, "the share of h1 was ended: no rollout is open")] if state == "failed" else [])
    site.traffic(canary={})


def test_a_host_that_an_earlier_run_drained_is_a_warning_until_a_command_has_proven_it(
    site: Site, tmp_path: Path
) -> None:
    site.traffic(drain=["h1"], by="run")
    made = Run(site, tmp_path)
    [traffic], _ = reconciled(made)
    [warning] = kept_out(made.context, made.gate, traffic)
    assert (warning.status, warning.hint) == (
        "warn",
        "verify them, which brings them back: ./firstlight provision --limit h1",
    )
    made.finish("h1")
    served_again(made.context, ["h1"])
    assert states(site)["h1"] == "up"


def test_an_interrupted_wait_brings_the_host_back(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        assert states(site)["h1"] == "drained"
        raise KeyboardInterrupt

    monkeypatch.setattr(restarts, "wait_until_empty", interrupt)
    made = Run(site, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        made.restarts.before(made.hosts[:1])
    assert states(site)["h1"] == "up"


def test_a_gateway_that_is_not_set_up_holds_nothing_up(site: Site, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    made = Run(Site(tmp_path / "empty", site.gateway, site.stubs, site.process), tmp_path)
    assert made.restarts.turns(made.hosts) == [made.hosts]
    assert made.restarts.before(made.hosts) == made.hosts
