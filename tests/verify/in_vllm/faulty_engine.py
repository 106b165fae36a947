"""A plug-in of vLLM that makes its server and its engine wrong while a file names a fault: each request reads it anew."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

PARAMETERS: dict[str, dict[str, Any]] = {
    "no stop": {"stop": []},
    "no seed": {"seed": None},
    "no top_p": {"top_p": 1.0},
    "no frequency_penalty": {"frequency_penalty": 0.0},
    "no temperature": {"temperature": 0.0},
    "stop string kept": {"include_stop_str_in_output": True},
    "no JSON": {"structured_outputs": None},
}

KEPT: list[object] = []


def is_faulty(name: str) -> bool:
    """Whether a fault is there now."""
    return Path(os.environ["FAULT_FILE"]).read_text() == name


def register() -> None:
    """Wrap what can be wrong; vLLM calls this in each of its processes."""
    wrap_api()
    wrap_samples()
    wrap_layers()


def wrap_api() -> None:
    """Wrap what answers requests."""
    from vllm.entrypoints.openai.chat_completion import protocol as chat
    from vllm.entrypoints.openai.chat_completion import serving as chat_serving
    from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
    from vllm.entrypoints.openai.completion import protocol as completion
    from vllm.entrypoints.openai.completion import serving as completion_serving
    from vllm.v1.engine.detokenizer import BaseIncrementalDetokenizer

    for request in (chat.ChatCompletionRequest, completion.CompletionRequest):
        request.to_sampling_params = changed(request.to_sampling_params)
    for serving in (chat_serving, completion_serving):
        serving.should_include_usage = uncounted(serving.should_include_usage)
    answer = OpenAIServingChat.create_chat_completion

    async def fails(self: Any, request: Any, *given: Any, **named: Any) -> Any:
        if is_faulty("chat fails"):
            raise RuntimeError("chat fails")
        if is_faulty("no system message"):
            request.messages = [one for one in request.messages if one["role"] != "system"]
        for tool in (request.tools or ()) if is_faulty("tool arguments of another schema") else ():
            tool.function.strict = False
        return await answer(self, request, *given, **named)

    OpenAIServingChat.create_chat_completion = fails
    text = BaseIncrementalDetokenizer.get_next_output_text

    def spoken(self: Any, finished: bool, delta: bool) -> str:
        said: str = text(self, finished, delta)
        if is_faulty("stream without its end") and finished and delta:
            return ""
        return said.swapcase() if is_faulty("wrong text") else said

    BaseIncrementalDetokenizer.get_next_output_text = spoken


def wrap_samples() -> None:
    """Wrap what chooses tokens and says how likely they are."""
    from vllm.v1.core import kv_cache_utils
    from vllm.v1.engine.logprobs import LogprobsProcessor
    from vllm.v1.engine.parallel_sampling import ParentRequest
    from vllm.v1.sample.sampler import Sampler

    child = ParentRequest.get_child_info

    def equal_child(self: Any, index: int) -> Any:
        name, parameters = child(self, index)
        if is_faulty("n equal choices"):
            parameters.seed = 5
        return name, parameters

    ParentRequest.get_child_info = equal_child
    update = LogprobsProcessor._update_sample_logprobs

    def late(self: Any, found: Any) -> None:
        before, self.before = getattr(self, "before", found.logprobs), found.logprobs
        update(self, found._replace(logprobs=before) if is_faulty("log probabilities of another token") else found)

    LogprobsProcessor._update_sample_logprobs = late
    sample = Sampler.forward

    def crossed(self: Any, logits: Any, *given: Any, **named: Any) -> Any:
        if is_faulty("crossed answers") and len(logits) > 1:
            logits[[0, 1]] = logits[[1, 0]]
        return sample(self, logits, *given, **named)

    Sampler.forward = crossed
    digest = kv_cache_utils.hash_block_tokens
    kv_cache_utils.hash_block_tokens = lambda function, parent, tokens, *rest: digest(
        function, parent, (0,) * len(tokens) if is_faulty("prefix cache without tokens") else tokens, *rest
    )


def wrap_layers() -> None:
    """Wrap what computes."""
    import torch
    from vllm.model_executor.layers.pooler.seqwise.methods import CLSPool, MeanPool
    from vllm.model_executor.models.bert import BertSelfOutput
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackendImpl

    rotate = torch.ops._C.rotary_embedding

    def rotated(positions: Any, *rest: Any) -> Any:
        if is_faulty("positions from 512 on"):
            positions = positions.clamp(max=511)
        if is_faulty("later parts of a prompt one position early") and len(positions) > 32:
            positions = positions - (positions[0] > 0).to(positions.dtype)
        return rotate(positions, *rest)

    torch.ops._C.rotary_embedding = rotated
    forward = CPUAttentionBackendImpl.forward

    def scaled(self: Any, *given: Any, **named: Any) -> Any:
        sound = self.scale, self.sliding_window
        self.scale *= 1.02 if is_faulty("attention scale") else 1
        self.sliding_window = 1024 if is_faulty("window of 1,024 tokens") else self.sliding_window
        try:
            return forward(self, *given, **named)
        finally:
            self.scale, self.sliding_window = sound

    CPUAttentionBackendImpl.forward = scaled
    mean = MeanPool.forward
    MeanPool.forward = lambda *given: CLSPool.forward(*given) if is_faulty("wrong pooling") else mean(*given)
    output = BertSelfOutput.forward
    BertSelfOutput.forward = lambda self, found, before: output(
        self, found * 1.5 if is_faulty("wrong weights") else found, before
    )


def uncounted(sound: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that says whether a stream ends with its usage."""
    return lambda *given: (False, False) if is_faulty("stream without usage") else sound(*given)


def changed(sound: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that makes a request's parameters, some of which the engine then ignores."""

    def wrong(*given: Any, **named: Any) -> Any:
        parameters = sound(*given, **named)
        for fault, values in PARAMETERS.items():
            for name, value in values.items() if is_faulty(fault) else ():
                setattr(parameters, name, value)
        if is_faulty("one token more"):
            parameters.max_tokens += 1
        if is_faulty("4 MiB kept of each request"):
            KEPT.append(b"x" * (4 << 20))
        if is_faulty("a descriptor kept of each request"):
            KEPT.append(os.dup(2))
        return parameters

    return wrong
