"""Rendered files in a real HAProxy with stub engines: which requests it allows, and how it handles failed hosts."""

import http.client
import json
import os
import re
import signal
import subprocess
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from provision.features.gateway import haproxy
from provision.features.monitoring import unit_sets
from tests.features.gateway.running import KEY, Site, Stub, ask, free_port, running, under_load
from tests.features.gateway.test_backends import make_certificate
from tests.verify.conftest import vllm_python
from tests.waiting import PATIENCE_S, wait_until

__all__ = ["vllm_python"]
pytestmark = pytest.mark.slow

ROUTES = tomllib.loads(Path(haproxy.__file__).with_name("routes.toml").read_text())
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A gateway with three hosts and two models; tests leave it unchanged."""
    with running(tmp_path_factory.mktemp("gateway"), {"a1": "a", "a2": "a", "b1": "org/b"}) as made:
        yield made


@pytest.mark.parametrize("route", ROUTES["passed"])
def test_a_listed_route_reaches_a_host_with_its_own_key(site: Site, route: str) -> None:
    method, _, path = route.partition(" ")
    before = len(site.stubs["b1"].seen())
    answer = site.ask(method, path, {"model": "org/b"} if method == "POST" else None, X_Firstlight_Host="a1")
    assert answer.status == 200
    if path == "/v1/models":
        assert [model["id"] for model in answer.document["data"]] == ["a", "org/b"]
        return
    [seen] = site.stubs["b1"].seen()[before:]
    assert seen["route"] == route
    assert seen["headers"]["authorization"] == "Bearer key-of-b1"
    assert not {"x-api-key", "x-firstlight-host"} & seen["headers"].keys()
    assert KEY not in str(seen)


def test_any_other_route_is_refused(site: Site) -> None:
    others = (*ROUTES["refused"], "GET /v1/chat/completions", "DELETE /v1/models", "POST /no-such")
    for route in others:
        method, _, path = route.partition(" ")
        if path == "/health":
            continue
        before = [len(stub.seen()) for stub in site.stubs.values()]
        method = "GET" if method == "WEBSOCKET" else method
        answer = site.ask(method, path.replace("{response_id}", "1"), {"model": "a"} if method == "POST" else None)
        assert answer.status == 404, route
        assert answer.document["error"]["type"] == "not_found_error", route
        assert [len(stub.seen()) for stub in site.stubs.values()] == before, route


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../invocations",
        "//v1/chat/completions",
        "/v1/chat/completions/",
        "/v1/chat%2Fcompletions",
        "/V1/chat/completions",
        "/v1/chat/completions;/../../../metrics",
    ],
)
def test_a_path_in_another_spelling_is_refused(site: Site, path: str) -> None:
    assert site.ask("POST", path, {"model": "a"}).status == 404


def test_a_request_needs_a_known_key(site: Site) -> None:
    body = {"model": "a"}
    assert site.ask("POST", CHAT, body).status == 200
    assert site.ask("POST", CHAT, body, key="sk-client-two").status == 200
    assert site.ask("POST", CHAT, body, key=None, X_API_Key=KEY).status == 200
    for key in (None, "sk-client", f"{KEY}x", "one", "key-of-a1", ""):
        refused = site.ask("POST", CHAT, body, key=key)
        assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert "API key" in refused.document["error"]["message"]
    assert site.ask("POST", CHAT, body, key=None, X_API_Key="no").status == 401
    assert site.ask("POST", CHAT, body, key=None, Authorization=f"Basic {KEY}").status == 401
    assert site.ask("GET", "/v1/models", key=None).status == 401
    assert site.ask("GET", "/metrics", key=None).status == 401
    assert site.ask("GET", "/health", key=None).status == 200, "whether every model has a host is no secret"


def test_the_model_decides_the_host(site: Site) -> None:
    assert {site.chat("a").host for _ in range(20)} == {"a1", "a2"}
    assert {site.chat("org/b").host for _ in range(5)} == {"b1"}
    bodies: tuple[Any, ...] = ({"model": "c"}, {"messages": []}, b"{", b"")
    for wrong in bodies:
        answer = site.ask("POST", CHAT, wrong)
        assert answer.status == 404
        assert "GET /v1/models" in answer.document["error"]["message"]


def test_an_adapter_is_asked_for_by_its_name_where_all_hosts_of_its_model_have_it(tmp_path: Path) -> None:
    with running(tmp_path, {"a1": "a", "a2": "a", "b1": "org/b"}) as site:
        adapters = {"a1": ("support", "new"), "a2": ("support",), "b1": ("tone",)}
        backends = tuple(replace(one, adapters=adapters[one.name]) for one in site.gateway.backends)
        site.reload(replace(site.gateway, backends=backends))
        listed = [model["id"] for model in site.ask("GET", "/v1/models").document["data"]]
        assert sorted(listed) == ["a", "org/b", "support", "tone"]
        assert {site.chat("support").host for _ in range(20)} == {"a1", "a2"}
        assert {site.chat("tone").host for _ in range(5)} == {"b1"}
        assert site.stubs["b1"].seen()[-1]["body"]["model"] == "tone"
        assert site.ask("POST", CHAT, {"model": "new", "messages": []}).status == 404


def test_the_model_is_found_behind_a_long_prompt(site: Site) -> None:
    prompt = "x" * (4 * 1024 * 1024 - 200)
    assert site.ask("POST", CHAT, {"messages": [{"role": "user", "content": prompt}], "model": "org/b"}).host == "b1"


def test_a_request_that_is_too_large_or_of_unknown_size_is_refused(site: Site) -> None:
    assert site.ask("POST", CHAT, b"x" * (4 * 1024 * 1024 + 1)).status == 413
    connection = http.client.HTTPConnection(*site.at, timeout=30)
    connection.request("POST", CHAT, iter([b"{}"]), {"Authorization": f"Bearer {KEY}"}, encode_chunked=True)
    assert connection.getresponse().status == 411
    connection.close()


def test_errors_of_clients_mark_no_host_down(site: Site) -> None:
    with site.stubs["b1"].in_mode("refuse"):
        assert {site.chat("org/b").status for _ in range(100)} == {400}
        assert site.state("b1") == "UP"
    assert site.chat("org/b").status == 200


def test_a_token_arrives_before_the_next_one_is_made(site: Site) -> None:
    stub = site.stubs["b1"]
    with stub.in_mode("stepwise"):
        tokens = site.tokens("org/b")
        for number in range(5):
            stub.step()
            assert next(tokens) == f"{number} "
        assert next(tokens) == "end"


def test_a_stream_that_breaks_does_not_look_complete(site: Site) -> None:
    with site.stubs["b1"].in_mode("break"):
        with pytest.raises(http.client.IncompleteRead) as broken:
            site.chat("org/b", stream=True)
        assert b'"1 "' in broken.value.partial or b'"0 "' in broken.value.partial
        assert site.host("b1").broken == 1


def test_a_host_that_ends_loses_no_later_request_and_returns(tmp_path: Path) -> None:
    with running(tmp_path, {"h1": "m", "h2": "m"}) as site:
        site.stubs["h1"].process.kill()
        site.stubs["h1"].process.wait()
        long = "x" * 200_000
        assert {site.chat(prompt=long).host for _ in range(20)} == {"h2"}
        site.wait("h1", "DOWN")
        site.stubs["h2"].process.kill()
        site.stubs["h2"].process.wait()
        refused = site.chat()
        site.wait("h2", "DOWN")
        for answer in (refused, site.chat()):
            assert (answer.status, answer.headers["retry-after"]) == (503, "2")
            assert answer.document["error"]["type"] == "overloaded"
        assert site.ask("GET", "/health", key=None).status == 503
        # The log has each change of a host's state and no health check.
        assert (tmp_path / "haproxy.log").read_text().count("GET /health") <= 1


@pytest.mark.parametrize("hangs", ["server", "engine"])
def test_a_host_that_hangs_leaves_the_traffic_and_returns(tmp_path: Path, hangs: str) -> None:
    with running(tmp_path, {"h1": "m", "h2": "m"}, probe_patience_s=1) as site:
        stub = site.stubs["h1"]
        if hangs == "engine":
            stub.mode("hang")
            assert ask(stub.at, "GET", "/health").status == 200
        else:
            stub.process.send_signal(signal.SIGSTOP)
        site.wait("h1", "DOWN")
        assert {site.chat().host for _ in range(10)} == {"h2"}
        if hangs == "engine":
            stub.mode("ok")
        else:
            stub.process.send_signal(signal.SIGCONT)
        site.wait("h1", "UP")
        wait_until(lambda: site.chat().host == "h1", "the host that came back gets no request")


def test_the_gateway_requests_a_token_from_a_host_with_its_own_key(tmp_path: Path) -> None:
    with running(tmp_path, {"h1": "m", "h2": "org/n"}) as site:
        for name, stub in site.stubs.items():
            wait_until(partial(has_probes, stub), f"{name} is not asked for a token")
            [*_, probe] = stub.seen(probes=True)
            assert probe["route"] == "POST /v1/completions"
            assert probe["headers"]["authorization"] == f"Bearer key-of-{name}"
            assert probe["body"] == {"model": stub.backend.model, "prompt": "a", "max_tokens": 1}


def has_probes(stub: Stub) -> bool:
    return bool(stub.seen(probes=True))


@pytest.mark.parametrize("mode", ["refuse", "busy"])
def test_a_host_that_cannot_answer_the_token_request_is_not_marked_down(tmp_path: Path, mode: str) -> None:
    with running(tmp_path, {"h1": "m"}) as site:
        stub = site.stubs["h1"]
        stub.mode(mode)
        before = len(stub.seen(probes=True))
        wait_until(lambda: len(stub.seen(probes=True)) > before + 3, "it is not asked for a token")
        assert (site.state("h1"), site.row("hosts", "h1")["status"]) == ("UP", "UP")


def test_requests_beyond_the_queue_get_a_time_to_retry(tmp_path: Path) -> None:
    with running(tmp_path, {"h1": "m"}, gateway_host_requests=1) as site:
        stub, first = site.stubs["h1"], site.begin_stream("h1")
        with ThreadPoolExecutor() as clients:
            waiting = clients.submit(site.chat)
            wait_until(lambda: queued(site) == 1, "it never waits")
            answer = site.chat()
            assert (answer.status, answer.headers["retry-after"]) == (503, "2")
            stub.step(4)
            assert list(first)[-1] == "end"
            assert waiting.result().status == 200


def test_a_gateway_that_is_full_of_requests_still_reaches_its_hosts(tmp_path: Path) -> None:
    """Its limits are lowered to thousandths of them."""
    with running(tmp_path, {"h1": "m"}) as site:
        site.stop()
        config = tmp_path / "gateway/current" / haproxy.CONFIG
        limit = re.compile(r"^    maxconn (\d+)$", re.MULTILINE)
        config.write_text(limit.sub(lambda found: f"    maxconn {int(found[1]) // 1000}", config.read_text()))
        site.start()
        site.wait("h1", "UP")
        most, stub = int(site.row("clients", "FRONTEND")["slim"]), site.stubs["h1"]
        stub.mode("stepwise")
        with ThreadPoolExecutor(most) as clients:
            answers = [clients.submit(site.chat, stream=True) for _ in range(most)]
            try:
                wait_until(lambda: len(stub.seen()) == most, "a request never reaches the host")
            finally:
                stub.mode("ok")
                stub.step(most)
        assert [answer.result().status for answer in answers] == [200] * most


CLIENT = """
import sys, openai
client = openai.OpenAI(base_url=sys.argv[1], api_key=sys.argv[2], max_retries=0)
print([model.id for model in client.models.list()])
asked = {"model": "org/b", "messages": [{"role": "user", "content": "hello"}]}
print(client.chat.completions.create(**asked).choices[0].message.content)
print("".join(part.choices[0].delta.content for part in client.chat.completions.create(**asked, stream=True)))
try:
    client.with_options(api_key="sk-wrong").models.list()
except openai.AuthenticationError as error:
    print(error.body["message"])
"""


def test_a_client_of_openai_works_over_tls(vllm_python: Path, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, "gate")
    (tmp_path / "trusted.pem").write_text(certificate)
    with running(tmp_path, {"a1": "a", "b1": "org/b"}, certificate=certificate + key) as site:
        base = f"https://{site.gateway.bind}:{site.gateway.settings.gateway_port}/v1"
        environment = {**os.environ, "SSL_CERT_FILE": str(tmp_path / "trusted.pem")}
        done = subprocess.run(
            [vllm_python, "-c", CLIENT, base, KEY], env=environment, capture_output=True, text=True, check=False
        )
    assert done.stdout.splitlines() == ["['a', 'org/b']", "b1", "0 1 2 3 4 ", "the API key is missing or unknown"], (
        done.stderr
    )


@pytest.mark.parametrize("version", ["1.1", "2"])
def test_a_request_that_is_too_large_gets_its_answer_in_each_version_of_http(tmp_path: Path, version: str) -> None:
    """HAProxy resets a stream of HTTP/2 that it answers before all has arrived; a client then sees no answer."""
    certificate, key = make_certificate(tmp_path, "gate")
    (tmp_path / "body").write_bytes(b"x" * (6 * 1024 * 1024))
    with running(tmp_path, {"a1": "a"}, certificate=certificate + key) as site:
        url = f"https://{site.gateway.bind}:{site.gateway.settings.gateway_port}{CHAT}"
        words = ["curl", "-sS", "--insecure", f"--http{version}", "--write-out", " %{http_code} %{http_version}"]
        words += ["--header", f"Authorization: Bearer {KEY}", "--data-binary", f"@{tmp_path}/body", url]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
        assert site.stubs["a1"].seen() == []
    assert done.stdout.endswith(f"}} 413 {version}"), done
    assert "the request is larger than 4 MiB" in done.stdout


def queued(site: Site) -> int:
    return sum(int(site.row("model-0", name)["qcur"]) for name in ("h1", "BACKEND"))


def test_a_client_has_a_limit_of_requests_per_minute(tmp_path: Path) -> None:
    with running(
        tmp_path, {"h1": "m"}, gateway_body_mib=1, gateway_host_requests=8, gateway_requests_per_minute=5
    ) as site:
        statuses = [site.chat().status for _ in range(8)]
        assert statuses == [200] * 5 + [429] * 3
        assert site.chat().headers["retry-after"] == "10"
        assert site.ask("POST", CHAT, {"model": "m"}, key="sk-client-two").status == 200, "another client has its own"


def test_a_reload_answers_the_next_request_on_a_connection_that_a_client_kept(tmp_path: Path) -> None:
    with running(tmp_path, {"h1": "m"}) as site:
        kept = http.client.HTTPConnection(*site.at, timeout=PATIENCE_S)
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        found = []
        for clients in ({"one": KEY, "two": "sk-2"}, {"one": KEY, "two": "sk-3"}):
            kept.request("POST", CHAT, json.dumps({"model": "m", "messages": []}), headers)
            response = kept.getresponse()
            response.read()
            found.append((response.status, response.getheader("Connection")))
            site.reload(replace(site.gateway, clients=clients))
        kept.close()
    assert found == [(200, None), (200, "close")]


@pytest.mark.parametrize(
    ("models", "status"), [({"h1": "m", "h2": "m"}, 503), ({"h1": "m", "h2": "m", "h3": "n"}, 200)]
)
def test_a_request_that_a_host_refuses_is_sent_to_another_up_to_a_size(
    tmp_path: Path, models: dict[str, str], status: int
) -> None:
    def long(mib: float) -> list[dict[str, str]]:
        return [{"role": "user", "content": "a" * int(mib * 1024 * 1024)}]

    with running(tmp_path, models) as site:
        site.stubs["h1"].mode("busy")
        asked = 8  # some of them go to the busy host first
        assert {site.chat(messages=long(0.2)).status for _ in range(asked)} == {200}
        assert {site.chat(messages=long(0.5)).status for _ in range(asked)} == {200, status}
        assert site.stubs["h1"].seen()


def test_a_reload_under_load_loses_nothing_and_accepts_new_keys(tmp_path: Path) -> None:
    with running(tmp_path, {"h1": "m", "h2": "m"}) as site:
        for stub in site.stubs.values():
            stub.mode("stepwise")
            stub.step()
        streams = [site.tokens() for _ in range(2)]
        assert [next(stream) for stream in streams] == ["0 ", "0 "]
        clients = dict(site.gateway.clients)
        with under_load(site) as statuses:
            for number in range(3):
                clients[f"new{number}"] = f"sk-new-{number}"
                site.reload(replace(site.gateway, clients=dict(clients)))
                wait_until(partial(answers, site, f"sk-new-{number}", 200), "a new key is never taken")
        assert set(statuses) == {200}
        assert len(statuses) > 10
        for stub in site.stubs.values():
            stub.step(4)
        assert [list(stream)[-1] for stream in streams] == ["end", "end"], "streams of before go on"
        site.reload(replace(site.gateway, clients={"two": "sk-client-two"}))
        wait_until(partial(answers, site, KEY, 401), "a client that was taken out keeps its key")


def answers(site: Site, key: str, status: int) -> bool:
    return site.ask("POST", CHAT, {"model": "m"}, key=key).status == status


def test_haproxys_figures_are_offered_without_a_key_and_nothing_else_is(tmp_path: Path) -> None:
    at = ("127.0.9.1", free_port("127.0.9.1"))
    with running(tmp_path, {"a": "m"}, metrics=at) as site:
        assert site.chat().status == 200
        figures = ask(at, "GET", "/metrics")
        assert figures.status == 200
        assert 'haproxy_server_status{proxy="model-0",server="a",state="UP"} 1' in figures.body.decode()
        files = [Path(unit_sets.__file__).with_name(name) for name in ("alerts.yml", "dashboards.toml")]
        for name in {name for file in files for name in re.findall(r"haproxy_[a-z_]+", file.read_text())}:
            assert f'\n{name}{{proxy="model-0",server="a"' in figures.body.decode()
        assert 'haproxy_server_http_responses_total{proxy="model-0",server="a",code="2xx"}' in figures.body.decode()
        for secret in (KEY, site.stubs["a"].backend.key):
            assert str(secret) not in figures.body.decode()
        assert ask(at, "POST", CHAT, {}).status == 404
        assert site.ask("GET", "/metrics").status == 404
