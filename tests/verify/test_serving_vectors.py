"""Vectors and scores of a service are compared, and requested from a real HTTP server that may answer wrongly."""

import base64
import json
import random
import struct
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.verify.served import Answering, served, service_behind
from verify.checks.serving.answer import check_answer as check
from verify.checks.serving.requests import collect_pace as pace
from verify.serving.client import Client, Endpoint
from verify.serving.contract import Asker, Findings, ask_all
from verify.serving.vectors import distance

FAULTS = {
    "embeddings: expected vectors 0 to 2 in their order, got [2, 1, 0]": ("embed", "reversed"),
    "embeddings: expected vectors of one size and of finite numbers, got [4, 3, 3]": ("embed", "one dimension less"),
    "embeddings: expected vectors of one size and of finite numbers": ("embed", "not a number"),
    "embeddings: expected ": ("embed", "wrong usage"),
    "embeddings: expected vector 0 in another encoding, got one at distance ": ("embed", "wrong base64"),
    "scores: expected vectors 0 to 2 in their order, got [2, 1, 0]": ("score", "reversed"),
    "reranking: expected the most relevant document first, got scores ": ("score", "unordered"),
    "reranking: expected 1 document (top_n), got ": ("score", "all documents"),
}
"""Task and fault by the beginning of what the contract says."""

ROUTES = ("/tokenize", "/v1/embeddings", "/v1/score", "/v1/rerank")


class Api(ThreadingHTTPServer):
    """A server of the routes for vectors; `fault` says what is wrong with it."""

    fault = ""

    def vector(self, text: str, *, size: int, among: bool) -> list[float]:
        """Return the numbers of a text, which depend on nothing else without a fault."""
        source = random.Random(
            text + (self.fault if self.fault == "other weights" or (self.fault == "batch" and among) else "")
        )
        return [source.uniform(0.1, 0.9) for _ in range(size)]


class Handler(Answering):
    server: Api

    def do_GET(self) -> None:  # noqa: N802 - as http.server names it
        self.answer(b"vllm:num_requests_running{} 0.0\n")

    def do_POST(self) -> None:  # noqa: N802 - as http.server names it
        body, fault = json.loads(self.received()), self.server.fault
        if self.path not in ROUTES:  # as vLLM does for a model that makes no text
            self.answer(b"", 404)
            return
        if self.path == "/tokenize":
            self.answer({"count": len(body["prompt"])})
            return
        texts = (
            body.get("input")
            or body.get("documents")
            or [
                f"{one} {two}"
                for one, two in zip(
                    [body["text_1"]] * 9 if isinstance(body["text_1"], str) else body["text_1"],
                    body["text_2"],
                    strict=False,
                )
            ]
        )
        size = 4 if "input" in body else 1
        entries: list[dict[str, Any]] = []
        for number, text in enumerate(texts):
            vector = self.server.vector(text, size=size, among=len(texts) > 1)
            vector = vector[1:] if fault == "one dimension less" and number else vector
            vector = [float("nan"), *vector[1:]] if fault == "not a number" else vector
            entries.append({"index": number, "embedding": vector, "score": vector[0] if vector else 0.0})
        if "documents" in body:
            best = sorted(entries, key=lambda one: -one["score"])
            best = best[::-1] if fault == "unordered" else best
            best = best[: body.get("top_n") or None] if fault != "all documents" else best
            self.answer({"results": [{"index": one["index"], "relevance_score": one["score"]} for one in best]})
            return
        for one in entries:
            if body.get("encoding_format") == "base64":
                values = [0.5] * size if fault == "wrong base64" else one["embedding"]
                one["embedding"] = base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
            del one["embedding" if size == 1 else "score"]
        tokens = sum(map(len, texts)) + (fault == "wrong usage")
        self.answer({"data": entries[::-1] if fault == "reversed" else entries, "usage": {"prompt_tokens": tokens}})


@pytest.fixture
def api() -> Iterator[Api]:
    with served(Api(("127.0.0.1", 0), Handler)) as server:
        yield server


def contract(api: Api, task: str) -> Findings:
    client = Client(Endpoint("127.0.0.1", api.server_port, "m"), 10.0)
    return ask_all(Asker(client, is_builtin=False, task=task), has_tools=False)


@pytest.mark.parametrize("task", ["embed", "score"])
def test_vectors_are_those_of_the_last_green_run(api: Api, tmp_path: Path, task: str) -> None:
    service = service_behind(api, tmp_path, task=task, release="this")
    outcome = check(service)
    assert (outcome.status, "no green run kept answers to compare with" in outcome.reason) == ("ok", True)
    inputs: list[Any] = ["a", "b"] if task == "embed" else [["q", "a"], ["q", "b"]]
    texts = ["a", "b"] if task == "embed" else ["q a", "q b"]
    vectors = [api.vector(text, size=4 if task == "embed" else 1, among=False) for text in texts]
    kept = {"inputs": inputs, "vectors": vectors, "release": "this", "at": "T"}
    (tmp_path / "verify/vectors-m.json").write_text(json.dumps(kept))
    outcome = check(service)
    assert (outcome.status, outcome.reason.partition(", after")[0]) == (
        "ok",
        "its vectors match its vectors of the same texts alone and the last green run",
    )
    api.fault = "other weights"
    outcome = check(service)
    assert (outcome.status, "its answer differs from the last green run: vector " in outcome.reason) == ("fail", True)


def test_a_vector_that_depends_on_other_texts_is_noticed(api: Api, tmp_path: Path) -> None:
    api.fault = "batch"
    outcome = check(service_behind(api, tmp_path, task="embed", release="this"))
    assert (outcome.status, "differs from its vectors of the same texts alone" in outcome.reason) == ("fail", True)


@pytest.mark.parametrize("task", ["embed", "score"])
def test_the_pace_is_that_of_one_vector(api: Api, tmp_path: Path, task: str) -> None:
    assert list(pace(service_behind(api, tmp_path, task=task, release="this")).now) == ["first token"]


@pytest.mark.parametrize("task", ["embed", "score"])
def test_a_sound_server_keeps_the_contract(api: Api, task: str) -> None:
    found = contract(api, task)
    assert (found.deviations, found.refused, found.late) == ((), {}, ())
    assert set(found.checked) == ({"embeddings"} if task == "embed" else {"scores", "reranking"})


@pytest.mark.parametrize("words", FAULTS)
def test_what_breaks_the_contract_is_noticed(api: Api, words: str) -> None:
    task, api.fault = FAULTS[words]
    assert [text for text in contract(api, task).deviations if text.startswith(words)]


@pytest.mark.parametrize(
    ("found", "expected", "off"),
    [([1.0, 0.0], [1.0, 0.0], 0.0), ([2.0, 0.0], [1.0, 0.0], 1.0), ([3.0, 4.5], [3.0, 4.0], 0.1), ([0.2], [0.1], 0.1), ([8.0], [10.0], 0.2), ([1.0], [1.0, 0.0], float("inf")), ([float("nan")], [1.0], float("inf"))],
)  # fmt: skip
def test_the_distance_is_a_share_of_the_length(found: list[float], expected: list[float], off: float) -> None:
    assert distance(found, expected) == pytest.approx(off)
