"""The contract of the served API through a real HAProxy with TLS: a sound gateway keeps it, and one that changes answers is noticed."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from provision.core.models.inventory import Connection, Host
from provision.core.models.records import CheckRecord, Task
from provision.core.models.settings import Settings
from provision.features.gateway import contract
from provision.features.gateway import step as gateway
from provision.features.gateway.backends import Backend, Gateway
from provision.features.gateway.haproxy import CONFIG, Files, render
from provision.fleet.ssh import Completed
from provision.fleet.ssh.local import LocalSession
from provision.phases.verify.run_checks import CheckOptions
from provision.phases.verify.step import verify_live
from provision.run.results import ProbedHosts
from tests.features.gateway import running as sites
from tests.features.gateway.running import KEY
from tests.features.gateway.test_backends import make_certificate
from tests.pipeline.local_context import local_context
from tests.verify.served import served
from tests.verify.stub_api import Api, Handler
from tests.verify.test_serving_vectors import Api as VectorApi
from tests.verify.test_serving_vectors import Handler as VectorHandler
from verify.serving.client import ANOTHER_KEY
from verify.tables import table

pytestmark = pytest.mark.long(seconds=45)

KINDS = [case["name"] for case in table("contract")["case"] if "task" not in case and case.get("needs") != "tools"]


class Engine(Api):
    pause_s = 0.0

    def complete(self, *arguments: Any) -> dict[str, Any]:
        time.sleep(self.pause_s)
        return super().complete(*arguments)


class EngineHandler(Handler):
    """Answers the probes of HAProxy too, which ask for no log probabilities."""

    def do_GET(self) -> None:  # noqa: N802 - as http.server names it
        self.answer({"data": []})

    def generate(self, prompt: list[int], body: dict[str, Any], *, is_chat: bool) -> None:
        super().generate(prompt, {"logprobs": 1, "max_tokens": 1, **body}, is_chat=is_chat)


@contextmanager
def engine() -> Iterator[Engine]:
    with served(Engine(("127.0.0.1", 0), EngineHandler)) as one:
        yield one


def backend(name: str, behind: ThreadingHTTPServer, task: Task = "generate") -> Backend:
    return Backend("m", "127.0.0.1", behind.server_port, "k", task=task, name=name, address="127.0.0.1")


def ask(folder: Path, passed_to: list[Api], hosts: list[Api] | None = None, **settings: Any) -> CheckRecord:
    """Run a gateway in front of engines, and ask it; `hosts` are asked in their place where an answer deviates."""
    names = [f"h{number}" for number, _ in enumerate(passed_to)]
    behind = tuple(map(backend, names, passed_to))
    certificate = "".join(make_certificate(folder, "gate"))
    with sites.running(folder, dict.fromkeys(names, "m"), certificate=certificate, backends=behind, **settings) as site:
        return checked(replace(site.gateway, backends=tuple(map(backend, names, hosts or passed_to))))


def checked(gateway: Gateway, python: str = sys.executable) -> CheckRecord:
    return contract.ask(LocalSession("gate", Connection(kind="local")), gate(python), gateway)


def gate(python: str = sys.executable) -> Host:
    connection = Connection(kind="local", python_interpreter=python)
    return Host(name="gate", groups=("gateway",), connection=connection, settings=Settings())


def test_a_sound_gateway_answers_as_asked(tmp_path: Path) -> None:
    with engine() as host:
        check = ask(tmp_path, [host])
    assert check.status == "ok", check.reason
    assert check.reason == f"{len(KINDS)} kinds of requests answered correctly through the gateway"
    assert KEY not in check.model_dump_json()


@pytest.mark.parametrize("task", ["embed", "score"])
def test_a_gateway_passes_on_vectors(tmp_path: Path, task: Task) -> None:
    with served(VectorApi(("127.0.0.1", 0), VectorHandler)) as host:
        behind = (backend("h0", host, task),)
        with sites.running(tmp_path, {"h0": "m"}, backends=behind) as site:
            check = checked(site.gateway)
    assert check.status == "ok", check.reason
    assert check.evidence["asked"] == (["embeddings"] if task == "embed" else ["scores", "reranking"])


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("no streamed usage", "streamed completion: expected 8 completion_tokens in usage, got None"),
        ("wrong streamed text", "streamed chat: expected the text of its token ids"),
        ("wrong text", "completion: expected the text of its token ids"),
        ("no seed", "seed: expected the same tokens for seed 7 again"),
        ("no stop", "stop: expected no text from"),
    ],
)
def test_a_gateway_that_changes_what_passes_is_noticed(tmp_path: Path, fault: str, reason: str) -> None:
    with engine() as host, engine() as changed:
        changed.fault = fault
        check = ask(tmp_path, [changed], [host])
    assert check.status == "fail"
    assert reason in check.reason


def test_what_hosts_answer_otherwise_themselves_is_no_fault_of_the_gateway(tmp_path: Path) -> None:
    with engine() as sound, engine() as host:
        host.fault = "no top_p"
        check = ask(tmp_path, [sound, host])
    assert check.status == "ok"
    # Hosts of two kinds may draw other tokens for a seed.
    asked = [name for name in KINDS if name not in ("seed", "top_p 0.000001")]
    assert set(asked) <= set(check.evidence["asked"])
    assert "seed" not in check.evidence["asked"]


def test_a_gateway_that_gives_hosts_too_little_time_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rendered(gateway: Gateway) -> Files:
        files = render(gateway)
        config = files.texts[CONFIG].replace("timeout server 30m", "timeout server 200ms")
        return replace(files, texts={**files.texts, CONFIG: config})

    monkeypatch.setattr(sites, "render", rendered)
    with engine() as host:
        host.pause_s = 0.5
        check = ask(tmp_path, [host])
    assert check.status == "fail"
    assert "completion: expected an answer, got /v1/completions: status 504" in check.reason


def test_a_gateway_that_takes_any_key_is_noticed(tmp_path: Path) -> None:
    with engine() as host:
        check = ask(tmp_path, [host], clients={"one": KEY, "two": ANOTHER_KEY})
    assert check.status == "fail"
    assert "expected 401 for a wrong key, got 200" in check.reason


def test_a_gateway_with_another_certificate_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with engine() as host:
        other = tmp_path / "other/gateway/current/certificate.pem"
        other.parent.mkdir(parents=True)
        other.write_text("".join(make_certificate(tmp_path / "other", "other")))
        own = "".join(make_certificate(tmp_path, "gate"))
        with sites.running(tmp_path, {"h0": "m"}, certificate=own) as site:
            check = checked(replace(site.gateway, folder=f"{tmp_path}/other/gateway", backends=(backend("h0", host),)))
    assert check.status == "fail"
    assert "CERTIFICATE_VERIFY_FAILED" in check.reason


def test_a_limit_of_requests_or_a_clients_budget_is_not_used_up() -> None:
    for limit, reason in (
        (Settings(gateway_requests_per_minute=60), "requests_per_minute lets a client send 60 requests"),
        (Settings(gateway_tokens_per_day=60), "it would use up the tokens of a client, and each has a budget"),
    ):
        check = checked(Gateway(limit, (), {"one": KEY}, ""))
        assert (check.status, reason in check.reason) == ("skip", True)
    some = Gateway(Settings(gateway_tokens_per_day={"one": 60}), (), {"one": KEY, "two": "sk-two"}, "")
    assert contract.request_of(some)["key"] == "sk-two"


def test_the_oldest_python_of_a_gateway_can_ask(tmp_path: Path) -> None:
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    oldest = next(map(str, pyenv.glob("versions/3.8.*/bin/python")), None)
    if oldest is None:
        pytest.skip("no Python 3.8 on this machine")
    with engine() as host:
        settings = Settings(gateway_bind="127.0.0.1", gateway_port=host.server_port, gateway_tls=False)
        check = checked(Gateway(settings, (backend("h0", host),), {"one": KEY}, str(tmp_path)), oldest)
    assert check.status == "fail"
    assert check.reason == "through the gateway: " + "; ".join(["expected 401 for a wrong key, got 200"] * 2)
    assert len(check.evidence["asked"]) == len(KINDS)


def test_verify_fails_for_a_gateway_that_changes_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = local_context(tmp_path, "hg")
    record = contract.record(context.host("g"), "fail", "through the gateway: no usage", remedy="set it up again")
    monkeypatch.setattr(gateway, "check", lambda *_: [record])
    options = CheckOptions("standard", multihost=True)
    assert verify_live(context, ProbedHosts(), options, names=frozenset()).around == (record,)
    result = context.outcomes.results["g"]["verify"]
    assert (result.status, result.hint) == ("failed", "set it up again")


def test_a_host_on_which_the_questions_cannot_run_is_no_fault_of_the_gateway() -> None:
    check = contract.evaluate(gate(), Completed(1, "", "Traceback ...\nSyntaxError: invalid syntax\n"))
    assert (check.status, check.reason) == ("error", "the gateway could not be queried: SyntaxError: invalid syntax")
