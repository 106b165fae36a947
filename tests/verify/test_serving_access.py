"""Access to a service and its secrets, with a real HTTP server that protects its routes as vLLM does, or does not.

And what its account may do besides, from the output of sudo 1.9 and entries of passwd and shadow.
"""

import os
import pwd
from collections.abc import Iterator
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.verify.localhost import program
from tests.verify.served import Answering, served, service_behind
from verify.checks.serving.access import (
    AccessFacts,
    AccountFacts,
    collect_account,
    evaluate_account,
    file_problems,
    guarded,
    numbers,
)
from verify.checks.serving.access import collect_access as collect
from verify.checks.serving.access import evaluate_access as evaluate
from verify.serving.client import Client, RequestError
from verify.serving.service import Service
from verify.serving.service_plan import ServicePlan

PLAN = ServicePlan("systemd", "firstlight-vllm.service")
KEY = "the-key-itself"
GUARDED = ("/v1", "/v2", "/inference")


class Server(ThreadingHTTPServer):
    """A substitute for vLLM's HTTP server: it refuses requests below its protected prefixes, whether the route exists or not."""

    guarded: tuple[str, ...] = ("/v1",)
    key = KEY


class Front(Answering):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:  # noqa: N802 - as http.server names it
        code = 200
        if (
            self.path.startswith(self.server.guarded)
            and self.headers.get("Authorization") != f"Bearer {self.server.key}"
        ):
            code = 401
        elif self.path != "/v1/models":
            code = 400
        self.answer({}, code)

    def do_POST(self) -> None:  # noqa: N802 - as http.server names it
        self.do_GET()


@pytest.fixture
def server() -> Iterator[Server]:
    with served(Server(("127.0.0.1", 0), Front)) as front:
        yield front


@pytest.fixture
def service(tmp_path: Path, server: Server) -> Service:
    made = service_behind(server, tmp_path, key=KEY, main_pid=1)
    for folder in ("envs/ab", "releases/r1", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "releases" / "r1" / "environment").symlink_to("../../envs/ab")
    (tmp_path / "current").symlink_to("releases/r1/environment")
    (tmp_path / "releases/r1/release.json").write_text("{}")
    for name in ("etc/service.env", "releases/r1/release.json"):
        (tmp_path / name).chmod(0o600)
    return made


def test_a_protected_service_passes_with_a_request_to_every_known_route(service: Service, server: Server) -> None:
    server.guarded = GUARDED
    facts = collect(service, PLAN, ("127.0.0.1",), "0.32.0")
    assert {"GET /v1/models", "POST /v1/completions", "GET /v1/responses/none"} < set(facts.answers)
    outcome = evaluate(PLAN, facts)
    assert outcome.status == "ok", outcome
    assert "16 routes refuse a request without the key" in outcome.reason
    assert KEY not in str(outcome)


@pytest.mark.slow
def test_behind_the_middleware_other_routes_are_requested_too(service: Service, server: Server) -> None:
    planned = replace(PLAN, unit="ExecStart=vllm serve m --middleware firstlight_attention.access.RequireKey")
    others = ("/invocations", "/docs", "/metrics", "/openapi.json", "/no-such-route")
    server.guarded = (*GUARDED, *others, "/tokenize")
    facts = collect(service, planned, ("127.0.0.1",), "0.32.0")
    assert {"POST /tokenize", "GET /metrics", "GET /docs"} <= set(facts.answers)
    assert evaluate(planned, facts).status == "ok"
    server.guarded = (*GUARDED, *others)
    outcome = evaluate(planned, collect(service, planned, ("127.0.0.1",), None))
    assert "POST /tokenize answers 400 without one" in outcome.reason


def test_a_server_with_another_key_than_the_file_is_a_failure(service: Service, server: Server) -> None:
    server.key = "another"
    outcome = evaluate(PLAN, collect(service, PLAN, ("127.0.0.1",), "0.9.1"))
    assert (outcome.status, outcome.reason) == ("fail", "/v1/models answers 401 with the key of etc/service.env")


@pytest.mark.slow
def test_one_route_that_answers_without_a_key_is_a_failure(service: Service, server: Server) -> None:
    server.guarded = ("/v1", "/v2")
    outcome = evaluate(PLAN, collect(service, PLAN, ("127.0.0.1",), "0.32.0"))
    assert outcome.status == "fail"
    assert (
        "1 of 16 guarded routes do not reject a request without the key: POST /inference/v1/generate" in outcome.reason
    )
    assert evaluate(PLAN, collect(service, PLAN, ("127.0.0.1",), "0.9.1")).status == "ok"


def test_no_key_is_required_if_none_is_planned(service: Service, server: Server) -> None:
    server.guarded = ("/nothing",)
    (service.prefix / "etc" / "service.env").write_text("")
    planned = ServicePlan("systemd", "firstlight-vllm.service", api_key=False)
    outcome = evaluate(planned, collect(service, planned, ("127.0.0.1",), "0.9.1"))
    assert outcome.status == "ok"
    assert "no key is planned" in outcome.reason


def test_a_server_that_does_not_answer_is_no_answer(service: Service, server: Server) -> None:
    server.shutdown()  # its socket stays open
    with pytest.raises(RequestError, match=r"nothing came for 0\.2 s"):
        Client(service.endpoint, 0.2).get("/openapi.json")


@pytest.mark.parametrize(
    ("listens", "planned", "status"),
    [
        (("127.0.0.1",), "127.0.0.1", "ok"),
        (("0.0.0.0",), "127.0.0.1", "fail"),
        (("127.0.0.1", "10.1.2.3"), "127.0.0.1", "fail"),
        (("::ffff:10.1.2.3",), "10.1.2.3", "ok"),
        (("::",), "::", "ok"),
        (("::1",), "localhost", "ok"),
        (("10.1.2.3",), "a.name.that.nobody.has.invalid", "ok"),
    ],
)
def test_the_address_is_the_planned_one(listens: tuple[str, ...], planned: str, status: str) -> None:
    known = numbers(planned) | ({"::1"} if planned == "localhost" else set())
    assert evaluate(PLAN, AccessFacts(listens, known, {"GET /v1/models": (401, 401)})).status == status


def test_only_its_owner_reads_a_secret_and_writes_a_file(service: Service) -> None:
    prefix = service.prefix
    assert list(file_problems(prefix)) == []
    (prefix / "etc" / "service.env").chmod(0o644)
    (prefix / "bin").chmod(0o777)
    (prefix / "releases" / "r1" / "release.json").unlink()
    assert list(file_problems(prefix)) == [
        f"everybody may write {prefix}/bin (mode 0777)",
        f"{prefix}/etc/service.env has secrets, and others may read or write it (mode 0644, planned 0600)",
        f"{prefix}/releases/r1/release.json: No such file or directory",
    ]


def test_files_of_a_folder_that_others_own_are_no_problem_where_they_are_linked(
    service: Service, tmp_path: Path
) -> None:
    share, model = tmp_path / "share", service.prefix / "models/m-1"
    share.mkdir()
    model.mkdir(parents=True)
    (share / "config.json").touch()
    (share / "config.json").chmod(0o666)
    (model / "config.json").symlink_to(share / "config.json")
    assert list(file_problems(service.prefix)) == []
    secret = service.prefix / "etc/service.env"
    secret.rename(share / "key")
    (share / "key").chmod(0o644)
    secret.symlink_to(share / "key")
    assert [problem.partition(" has ")[0] for problem in file_problems(service.prefix)] == [str(secret)]


@pytest.mark.parametrize(
    ("version", "prefixes"),
    [("0.9.1", GUARDED[:1]), ("0.32.0", (*GUARDED, "/cohere")), ("0.32.0rc1", (*GUARDED, "/cohere"))],
)
def test_the_protected_routes_depend_on_the_release(version: str, prefixes: tuple[str, ...]) -> None:
    assert guarded(version) == prefixes
    assert set(guarded(None)) >= set(prefixes)


ACCOUNT = AccountFacts(
    "firstlight",
    "/usr/sbin/nologin",
    ("firstlight", "video", "render"),
    "User firstlight is not allowed to run sudo on host2.\n",
)
GRANTED = """Matching Defaults entries for firstlight on host2:
    env_reset, mail_badpass, secure_path=/usr/local/sbin\\:/usr/local/bin\\:/usr/sbin\\:/usr/bin\\:/sbin\\:/bin, use_pty

User firstlight may run the following commands on host2:
    (ALL) NOPASSWD: ALL
"""


def test_an_account_for_nothing_but_its_service_passes() -> None:
    outcome = evaluate_account(ACCOUNT)
    assert (outcome.status, outcome.reason) == (
        "ok", "firstlight has no login, no sudo rights and no powerful group (firstlight, video, render)"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"shell": "/bin/bash"}, "firstlight has the login shell /bin/bash"),
        ({"shell": ""}, "firstlight has the login shell /bin/sh"),
        ({"sudo": GRANTED}, "firstlight may run commands by sudo: (ALL) NOPASSWD: ALL"),
        ({"groups": ("firstlight", "docker", "sudo")}, "firstlight is in group docker, sudo"),
        ({"password": "$y$j9T$abc"}, "firstlight has a password"),
        ({"password": ""}, "firstlight needs no password"),
        (
            {"keys": ("/p/home/.ssh/authorized_keys",)},
            "firstlight may log in with the keys of /p/home/.ssh/authorized_keys",
        ),
        ({"others": ("guest",)}, "guest is the same account by another name"),
    ],
)
def test_each_way_to_more_is_named(change: dict[str, str], text: str) -> None:
    outcome = evaluate_account(replace(ACCOUNT, **change))  # type: ignore[arg-type]
    assert (outcome.status, outcome.reason) == ("fail", text)


@pytest.mark.parametrize("mark", ["!", "*", "!*", "!!"])
def test_the_marks_of_no_password_are_known(mark: str) -> None:
    assert evaluate_account(replace(ACCOUNT, password=mark)).status == "ok"


def test_the_rights_of_an_account_are_read_in_english(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "sudo", '[ "$LC_ALL" = C ] && echo "User x may run the following commands on h:"')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert "may run" in collect_account("x", pwd.getpwuid(os.getuid())).sudo


def test_an_account_of_this_machine_is_read() -> None:
    entry = pwd.getpwuid(os.getuid())
    facts = collect_account(entry.pw_name, entry)
    assert (facts.name, facts.shell) == (entry.pw_name, entry.pw_shell)
    assert facts.groups
