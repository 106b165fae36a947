"""A small engine behind vLLM's API: a model of random numbers over the ASCII characters, whose ids are their codes.

It samples as vLLM does, on one core without torch. `fault` names what it does wrong; `FAULTS` lists what is possible.
"""

import json
import math
import random
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.verify.served import Answering

VOCABULARY = range(32, 127)
FAULTS = {
    "chat fails": "chat: expected an answer, got /v1/chat/completions: status 500",
    "wrong text": "completion: expected the text of its token ids, `",
    "wrong streamed text": "streamed chat: expected the text of its token ids, `",
    "stream without its end": "end of a stream: expected the text of its token ids, `",
    "no stop": "stop: expected no text from `",
    "no stop reason": "stop in a chat: expected finish_reason stop at `",
    "always samples": "completion: expected the most likely token ",
    "always greedy": "temperature 2: expected different choices, got 4 equal ones",
    "temperature 1": "temperature 0.01: expected 4 equal choices, got 4 different ones",
    "no seed": "seed: expected the same tokens for seed 7 again, [",
    "one seed": "seed: expected other tokens for seed 8 than for seed 7, got [",
    "no top_k": "top_k 1: expected 4 equal choices",
    "no top_p": "top_p 0.000001: expected 4 equal choices",
    "no min_p": "min_p 1: expected 4 equal choices",
    "no repetition_penalty": "repetition_penalty: expected 6 distinct tokens, got [",
    "no frequency_penalty": "frequency_penalty: expected other tokens than without the penalty, got [",
    "no presence_penalty": "presence_penalty: expected other tokens than without the penalty, got [",
    "wrong prompt count": "completion: expected 49 prompt_tokens in usage, got 50",
    "wrong answer count": "chat: expected 8 completion_tokens in usage, got 9",
    "no streamed usage": "streamed completion: expected 8 completion_tokens in usage, got None",
    "one token more": "max_tokens 1: expected 1 tokens (max_tokens), got 2",
    "wrong finish_reason": "chat: expected finish_reason length, got stop",
    "one choice": "n: expected choices 0 to 2, got [0]",
    "few logprobs": "completion: expected 5 log probabilities for token 1, got 4",
    "wrong logprobs": "completion: expected probabilities up to 1 for token 1, got 2.72 of ",
    "no system message": "system message: expected 100 prompt_tokens in usage, got 56",
    "no schema, cut off": "JSON by a schema: expected JSON of ['yes', 'no'], got `",
    "no schema": "JSON by a schema: expected JSON of ['yes', 'no'], got `",
    "wrong tool": "tool call: expected a call of `answer` with `word` of ['yes', 'no'], got [",
}
"""What the engine can do wrong, and the beginning of what the check says of it."""


class Api(ThreadingHTTPServer):
    """The state of the engine."""

    daemon_threads = True
    fault = ""
    has_template = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self.unseeded = random.Random(1)
        """Draws for requests without a seed: others for each request, and the same in each run of a test."""

    def is_faulty(self, name: str) -> bool:
        return self.fault == name

    def complete(self, prompt: Sequence[int], body: dict[str, Any], number: int) -> dict[str, Any]:
        """Return one choice: its tokens, their log probabilities, and why it ended."""
        seed = 0 if self.is_faulty("one seed") else body.get("seed")
        is_seeded = seed is not None and not self.is_faulty("no seed")
        source = random.Random(f"{seed} {number}") if is_seeded else self.unseeded
        tokens: list[int] = []
        tops: list[dict[int, float]] = []
        while len(tokens) < body["max_tokens"] + self.is_faulty("one token more"):
            logits = self.logits([*prompt, *tokens])
            total = math.log(sum(map(math.exp, logits.values())))
            token = self.sample(self.changed(logits, prompt, tokens, body), body, source)
            tokens.append(token)
            ranked = sorted(logits, key=logits.__getitem__, reverse=True)[: body.get("logprobs_wanted", 1)]
            tops.append({one: logits[one] - total for one in (token, *ranked)})
            text = "".join(map(chr, tokens))
            if body.get("stop") and body["stop"] in text and not self.is_faulty("no stop"):
                reason = "length" if self.is_faulty("no stop reason") else "stop"
                return {"text": text.partition(body["stop"])[0], "tokens": tokens, "tops": tops, "reason": reason}
        reason = "stop" if self.is_faulty("wrong finish_reason") else "length"
        return {"text": "".join(map(chr, tokens)), "tokens": tokens, "tops": tops, "reason": reason}

    @staticmethod
    def logits(tokens: Sequence[int]) -> dict[int, float]:
        source = random.Random(str(list(tokens[-3:])))
        return {id_: source.gauss(0.0, 2.0) for id_ in VOCABULARY}

    def changed(
        self, logits: dict[int, float], prompt: Sequence[int], tokens: Sequence[int], body: dict[str, Any]
    ) -> dict[int, float]:
        """Return the logits after bias and penalties."""
        found = dict(logits)
        for id_, bias in (body.get("logit_bias") or {}).items():
            found[int(id_)] += bias
        for id_ in {*prompt, *tokens} if not self.is_faulty("no repetition_penalty") else ():
            factor = body.get("repetition_penalty", 1.0)
            found[id_] = found[id_] / factor if found[id_] > 0 else found[id_] * factor
        for id_ in set(tokens):
            if not self.is_faulty("no frequency_penalty"):
                found[id_] -= body.get("frequency_penalty", 0.0) * tokens.count(id_)
            if not self.is_faulty("no presence_penalty"):
                found[id_] -= body.get("presence_penalty", 0.0)
        return found

    def sample(self, logits: dict[int, float], body: dict[str, Any], source: random.Random) -> int:
        """Return one token."""
        temperature = body.get("temperature", 1.0)
        if self.is_faulty("temperature 1") and temperature:
            temperature = 1.0
        if self.is_faulty("always samples"):
            temperature = temperature or 1.0
        best = max(logits, key=logits.__getitem__)
        is_limited = (
            (body.get("top_k") == 1 and not self.is_faulty("no top_k"))
            or (body.get("top_p", 1.0) < 0.1 and not self.is_faulty("no top_p"))
            or (body.get("min_p") == 1 and not self.is_faulty("no min_p"))
        )
        if not temperature or is_limited or self.is_faulty("always greedy"):
            return best
        weights = [math.exp((value - logits[best]) / temperature) for value in logits.values()]
        return source.choices(list(logits), weights)[0]


class Handler(Answering):
    server: Api

    def do_POST(self) -> None:  # noqa: N802 - as http.server names it
        body = json.loads(self.received())
        is_chat = "messages" in body
        said = body.get("messages", ())
        if self.path != "/tokenize" and self.server.is_faulty("no system message"):
            said = said[-1:]
        text = "".join(f"{one['role']}: {one['content']}\n" for one in said) if is_chat else body.get("prompt", "")
        prompt = [ord(letter) for letter in text.replace("\n", " ")]
        if self.path == "/tokenize":
            self.answer({"count": len(prompt)})
        elif self.path == "/detokenize":
            self.answer({"prompt": "".join(map(chr, body["tokens"]))})
        elif is_chat and self.server.is_faulty("chat fails"):
            self.answer({"error": "Internal Server Error"}, 500)
        elif is_chat and not self.server.has_template:
            self.answer({"error": {"message": "you must provide a chat template"}}, 400)
        elif "response_format" in body or "tools" in body:
            self.answer(self.structured(body))
        else:
            self.generate(prompt, body, is_chat=is_chat)

    def structured(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return an answer that keeps to a schema."""
        word = "maybe" if self.server.fault.startswith("no schema") else "yes"
        message: dict[str, Any] = {"content": json.dumps(word)}
        if "tools" in body:
            name = "other" if self.server.is_faulty("wrong tool") else "answer"
            message = {"content": None, "tool_calls": [{"function": {"name": name, "arguments": '{"word": "yes"}'}}]}
        reason = "length" if self.server.is_faulty("no schema, cut off") else "stop"
        return {"choices": [{"index": 0, "message": message, "finish_reason": reason}], "usage": {}}

    def generate(self, prompt: list[int], body: dict[str, Any], *, is_chat: bool) -> None:
        """Complete a prompt as vLLM would, whole or in parts."""
        engine = self.server
        body["logprobs_wanted"] = (body.get("top_logprobs", 1) if is_chat else body["logprobs"]) - engine.is_faulty(
            "few logprobs"
        )
        number = 1 if engine.is_faulty("one choice") else body.get("n", 1)
        found = [engine.complete(prompt, body, place) for place in range(number)]
        made = sum(len(one["tokens"]) for one in found) + engine.is_faulty("wrong answer count")
        count = len(prompt) + engine.is_faulty("wrong prompt count")
        usage = {"prompt_tokens": count, "completion_tokens": made, "total_tokens": count + made}
        if not body.get("stream"):
            choices = [self.choice(one, slice(None), is_chat=is_chat) for one in found]
            if engine.is_faulty("wrong text"):
                choices[0]["text"] = "first light"
            self.answer({"choices": [{**one, "index": place} for place, one in enumerate(choices)], "usage": usage})
            return
        [one] = found
        parts = [self.choice(one, slice(place, place + 1), is_chat=is_chat) for place in range(len(one["tokens"]))]
        if engine.is_faulty("wrong streamed text"):
            parts[0].update({"text": "", "message": None, "delta": {"content": ""}})
        if engine.is_faulty("stream without its end"):
            parts[-1].update({"text": "", "message": None, "delta": {"content": ""}})
        events: list[dict[str, Any]] = [{"choices": [{**part, "index": 0}]} for part in parts]
        if not engine.is_faulty("no streamed usage"):
            events.append({"choices": [], "usage": usage})
        self.stream(events)

    def choice(self, one: dict[str, Any], part: slice, *, is_chat: bool) -> dict[str, Any]:
        """Return a choice, or a part of its tokens, in the form of a route."""
        tokens, tops = one["tokens"][part], one["tops"][part]
        text = one["text"] if part == slice(None) else "".join(map(chr, tokens))
        more = 1.0 - tops[0][tokens[0]] if self.server.is_faulty("wrong logprobs") else 0.0
        ends = len(tokens) == len(one["tokens"]) or part.stop == len(one["tokens"])
        choice: dict[str, Any] = {"finish_reason": one["reason"] if ends else None}
        if is_chat:
            entries = [
                {
                    "token": f"token_id:{token}",
                    "logprob": top[token] + more,
                    "top_logprobs": [{"logprob": value + more} for value in top.values()],
                }
                for token, top in zip(tokens, tops, strict=True)
            ]
            return choice | {"message": {"content": text}, "delta": {"content": text}, "logprobs": {"content": entries}}
        return choice | {
            "text": text,
            "logprobs": {
                "tokens": [f"token_id:{token}" for token in tokens],
                "token_logprobs": [top[token] + more for token, top in zip(tokens, tops, strict=True)],
                "top_logprobs": [{f"token_id:{id_}": value + more for id_, value in top.items()} for top in tops],
            },
        }
