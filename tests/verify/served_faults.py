"""Faults that tests make in vLLM's own server (`in_vllm/faulty_engine.py`), and what the checks say of them."""

from dataclasses import dataclass
from typing import Literal

Family = Literal["answers", "API", "leaks"]
CHECKS: dict[Family, tuple[str, ...]] = {
    "answers": ("serving.answer",),
    "API": ("serving.contract",),
    "leaks": ("serving.soak",),
}


@dataclass(frozen=True)
class ServedFault:
    """One fault of a running server."""

    name: str
    family: Family
    words: str
    """Part of the check's reason; of the API, its beginning."""
    level: Literal["standard", "full"] = "standard"

    @property
    def checks(self) -> tuple[str, ...]:
        """Checks that find it."""
        return CHECKS[self.family]


ALL = (
    ServedFault("attention scale", "answers", "as by a model whose attention scale is +"),
    ServedFault("positions from 512 on", "answers", "log probabilities of a prompt of 700 tokens differ by "),
    ServedFault("prefix cache without tokens", "answers", "with a shared prefix, sent at once: log probabilities of "),
    ServedFault("crossed answers", "answers", "with a shared prefix, sent at once: log probabilities of "),
    ServedFault(
        "later parts of a prompt one position early", "answers", "with a shared prefix, sent at once: log prob"
    ),
    ServedFault("log probabilities of another token", "answers", "its answer differs from"),
    ServedFault("window of 1,024 tokens", "answers", "log probabilities of a prompt of 3000 tokens differ by ", "full"),
    ServedFault("chat fails", "API", "chat: expected an answer, got /v1/chat/completions: status 500"),
    ServedFault("wrong text", "API", "completion: expected the text of its token ids"),
    ServedFault("no stop", "API", "stop: expected no text from `"),
    ServedFault("no seed", "API", "seed: expected the same tokens for seed 7 again"),
    ServedFault("no top_p", "API", "top_p 0.000001: expected 4 equal choices"),
    ServedFault("no frequency_penalty", "API", "frequency_penalty: expected other tokens than without the penalty"),
    ServedFault("one token more", "API", "max_tokens 1: expected 1 tokens (max_tokens), got 2"),
    ServedFault("no temperature", "API", "temperature 2: expected different choices"),
    ServedFault("stop string kept", "API", "stop: expected no text from `"),
    ServedFault("stream without its end", "API", "end of a stream: expected the text of its token ids"),
    ServedFault("stream without usage", "API", "streamed chat: expected "),
    ServedFault("n equal choices", "API", "temperature 2: expected different choices"),
    ServedFault("no system message", "API", "system message: expected "),
    ServedFault("no JSON", "API", "JSON by a schema: expected JSON of "),
    ServedFault("tool arguments of another schema", "API", "tool call: expected a call of `answer` with `word` of "),
    ServedFault("4 MiB kept of each request", "leaks", "memory of the host grows by ", "full"),
    ServedFault("a descriptor kept of each request", "leaks", "open descriptors grow by ", "full"),
)
