"""The contract of the served API: requests of data/contract.toml, and their answers; also as a program on a gateway's host, whose Python may be 3.8."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from verify.serving.client import ANOTHER_KEY, Client, Endpoint, NoAnswerError, RefusedError, RequestError
from verify.serving.expectations import Answer, Choice, deviations
from verify.tables import table

PATHS = {
    "completions": "/v1/completions",
    "chat": "/v1/chat/completions",
    "embeddings": "/v1/embeddings",
    "score": "/v1/score",
    "rerank": "/v1/rerank",
}
NO_TEMPLATE = "chat template"
"""What vLLM's refusal of a chat names where the model has no such template."""
ID_PREFIX = "token_id:"
BAD_REQUEST = 400
OPEN = "?"
"""Stop text in the table that the first answer fills in."""


@dataclass(frozen=True)
class Findings:
    """Outcome of all requests."""

    deviations: tuple[str, ...] = ()
    checked: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    """By name of a case: why the server does not offer it for this model."""
    late: tuple[str, ...] = ()
    """Cases that were not asked in time."""
    inherited: tuple[str, ...] = ()
    """Of a gateway: what the servers behind it deviate in when they are asked themselves."""


@dataclass(frozen=True)
class Asker:
    """Sends the requests of a case to one service."""

    client: Client
    is_builtin: bool
    has_reasoning: bool = False
    """Whether a parser takes the reasoning out of a chat's text."""
    task: str = "generate"
    """What the model makes: text, embeddings (`embed`), or scores of pairs of texts (`score`)."""

    def answers(self, case: Mapping[str, Any], prompt: str) -> list[Answer]:
        """Return the answers to a case's requests, in their order. Raises RequestError."""
        asked = {**(table("contract")["common"] if self.task == "generate" else {}), **case["body"]}
        answers = [self._answer(case, asked, prompt)]
        for more in case.get("further", ()):
            body = {**asked, **more}
            if body.get("stop") == OPEN:
                body["stop"] = stop_text(answers[0].choices[0].text)
            answers.append(self._answer(case, body, prompt))
        return answers

    def _answer(self, case: Mapping[str, Any], body: Mapping[str, Any], prompt: str) -> Answer:
        if self.task != "generate":
            return self._vectors(case["route"], body, prompt)
        path, is_chat = PATHS[case["route"]], case["route"] == "chat"
        said = [("system", case["system"])] if "system" in case else []
        messages = [{"role": role, "content": content} for role, content in (*said, ("user", prompt))]
        question: dict[str, Any] = {"messages": messages} if is_chat else {"prompt": prompt}
        if case.get("stream"):
            whole = {**question, **body, "stream_options": {"include_usage": True}}
            choices, usage = joined(self.client.stream(path, whole))
        else:
            document = self.client.post(path, {**question, **body})
            choices, usage = [parsed(one) for one in document["choices"]], document.get("usage") or {}
        if is_chat and self.has_reasoning:
            rest = [replace(one, tokens=(), logprobs=(), top=()) for one in choices]
            return Answer(body, tuple(rest), usage, is_whole=False)
        count = self._tokenizer("/tokenize", question, "count")
        shown = [
            replace(one, decoded=self._tokenizer("/detokenize", {"tokens": one.tokens}, "prompt")) for one in choices
        ]
        return Answer(body, tuple(shown), usage, count)

    def _vectors(self, route: str, body: Mapping[str, Any], prompt: str) -> Answer:
        texts = [prompt, *(text for text in table("contract")["prompts"] if text != prompt)]
        questions: Mapping[str, Mapping[str, Any]] = {
            "embeddings": {"input": texts},
            "score": {"text_1": prompt, "text_2": texts},
            "rerank": {"query": prompt, "documents": texts},
        }
        document = self.client.post(PATHS[route], {**questions[route], **body})
        counts = [self._tokenizer("/tokenize", {"prompt": text}, "count") for text in texts]
        tokens = sum(counts) if route == "embeddings" and all(counts) else None
        entries = tuple(document["results" if route == "rerank" else "data"])
        return Answer(body, (), document.get("usage") or {}, tokens, entries=entries, inputs=len(texts))

    def _tokenizer(self, path: str, body: Mapping[str, Any], name: str) -> Any:
        """Return a value of an answer of the server's tokenizer; None if this server has none."""
        try:
            return self.client.post(path, body).get(name)
        except RefusedError:
            return None


def ask_all(asker: Asker, *, has_tools: bool, behind: Sequence[Asker] = ()) -> Findings:
    """Ask every case that applies; a deviating one is asked again with other prompts.

    `has_tools` tells whether the server has a parser of tool calls. Where it is a gateway, `behind` ask the servers that it passes
    requests on to: what these answer differently than asked is no deviation of the gateway. Raises NoAnswerError where the server sent
    nothing within the limit, nor did those behind it.
    """
    limits = table("contract")
    applies = {"tools": has_tools, "one host": len(behind) <= 1}
    cases = [
        case
        for case in limits["case"]
        if applies.get(case.get("needs"), True) and case.get("task", "generate") == asker.task
    ]
    until = time.monotonic() + limits["budget_s"]
    ask = partial(_ask_gateway, asker, behind) if behind else partial(_ask, asker)
    with ThreadPoolExecutor(limits["at_once"]) as pool:
        return combine(list(pool.map(partial(ask, until=until), cases)))


def _ask_gateway(gateway: Asker, behind: Sequence[Asker], case: Mapping[str, Any], until: float) -> Findings:
    """Ask a gateway; where its answer deviates, also the servers behind it."""
    name = case["name"]
    try:
        found = _ask(gateway, case, until)
    except NoAnswerError as silence:
        found = Findings((f"{name}: {silence}",), checked=(name,))
    if not (found.deviations or found.refused):
        return found
    until = max(until, time.monotonic() + table("contract")["silence_s"])
    own = combine([_ask(one, case, until) for one in behind])
    if own.deviations or own.refused or own.late:
        return replace(own, deviations=(), checked=(), inherited=own.deviations)
    refused = tuple(f"{name}: expected the answer of its hosts, got {text}" for text in found.refused.values())
    return Findings(found.deviations + refused, checked=(name,))


def _ask(asker: Asker, case: Mapping[str, Any], until: float) -> Findings:
    found: list[str] = []
    name = case["name"]
    for prompt in table("contract")["prompts"]:
        if time.monotonic() > until:
            return Findings(late=(name,))
        try:
            found = deviations(case, asker.answers(case, prompt))
        except NoAnswerError:
            raise
        except RefusedError as refusal:
            may_refuse = refusal.status == BAD_REQUEST and (not asker.is_builtin or NO_TEMPLATE in str(refusal))
            if may_refuse:
                return Findings(refused={name: str(refusal)})
            found = [f"expected an answer, got {refusal}"]
        except (RequestError, KeyError, TypeError, ValueError) as problem:
            found = [f"expected an answer, got {problem!r}"]
        if not found:
            break
    return Findings(tuple(f"{name}: {text}" for text in found), checked=(name,))


def combine(findings: Sequence[Findings]) -> Findings:
    """Return the findings of all cases as one."""
    return Findings(
        tuple(text for one in findings for text in one.deviations),
        tuple(name for one in findings for name in one.checked),
        {name: text for one in findings for name, text in one.refused.items()},
        tuple(name for one in findings for name in one.late),
        tuple(text for one in findings for text in one.inherited),
    )


def parsed(choice: Mapping[str, Any]) -> Choice:
    """Return a choice of either route, whole or a part of a stream."""
    message = choice.get("message") or choice.get("delta") or {}
    found = choice.get("logprobs") or {}
    if "content" in found:
        entries = found["content"] or ()
        ids = [entry["token"] for entry in entries]
        logprobs = [entry["logprob"] for entry in entries]
        top = [tuple(one["logprob"] for one in entry.get("top_logprobs") or ()) for entry in entries]
    else:
        ids, logprobs = found.get("tokens") or [], found.get("token_logprobs") or []
        top = [tuple((one or {}).values()) for one in found.get("top_logprobs") or ()]
    return Choice(
        choice.get("text") or message.get("content") or "",
        tuple(int(id_[len(ID_PREFIX) :]) for id_ in ids if id_.startswith(ID_PREFIX)),
        tuple(logprobs),
        tuple(top),
        choice.get("finish_reason"),
        tool_calls=message.get("tool_calls") or (),
        index=choice.get("index", 0),
    )


def joined(events: Iterator[Mapping[str, Any]]) -> tuple[list[Choice], Mapping[str, Any]]:
    """Return the choices and the usage of a stream, whose parts are put together."""
    choices: dict[int, Choice] = {}
    usage: Mapping[str, Any] = {}
    for event in events:
        usage = event.get("usage") or usage
        for part in map(parsed, event.get("choices") or ()):
            so_far = choices.get(part.index, Choice("", index=part.index))
            choices[part.index] = replace(
                part,
                text=so_far.text + part.text,
                tokens=so_far.tokens + part.tokens,
                logprobs=so_far.logprobs + part.logprobs,
                top=so_far.top + part.top,
                finish_reason=part.finish_reason or so_far.finish_reason,
            )
    return list(choices.values()), usage


def stop_text(text: str) -> str:
    """Return two characters from the middle of a text, at which the same text must stop when it is asked again."""
    middle = [place for place in range(1, len(text) - 1) if text[place : place + 2].isascii() and text[place].strip()]
    place = middle[len(middle) // 2] if middle else 0
    return text[place : place + 2] or "."


KEY_IS_UNKNOWN = 401


def main() -> None:
    """Read the request, ask, and write what was found."""
    sys.stdout.write(json.dumps(ask(json.load(sys.stdin))))


def ask(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was found for each model: the names of what was asked, and texts on what deviates or stayed silent."""
    found: dict[str, Any] = {"asked": [], "late": [], "inherited": [], "deviations": [], "silent": None}
    silence_s = table("contract")["silence_s"]
    for model, hosts in request["models"].items():
        client = Client(Endpoint(model=model, **request["gateway"]), silence_s, request["key"])
        task = hosts[0]["task"]
        behind = [
            Asker(Client(Endpoint(one["host"], one["port"], model), silence_s, one["key"]), is_builtin=False, task=task)
            for one in hosts
        ]
        try:
            found["deviations"] += [
                f"expected 401 for a wrong key, got {status}"
                for status in (client.status("GET", "/v1/models", key) for key in (ANOTHER_KEY, None))
                if status != KEY_IS_UNKNOWN
            ]
            one = ask_all(Asker(client, is_builtin=False, task=task), has_tools=False, behind=behind)
        except NoAnswerError as silence:
            found["silent"] = f"{model}: {silence}"
        except RequestError as problem:
            found["deviations"].append(f"{model}: {problem}")
        else:
            names = {"asked": one.checked, "late": one.late, "inherited": one.inherited, "deviations": one.deviations}
            for name, texts in names.items():
                found[name] += texts
    return found
