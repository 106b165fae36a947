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
}

KEPT: list[object] = []


def is_faulty(name: str) -> bool:
    """Whether a fault is there now."""
    return Path(os.environ["FAULT_FILE"]).read_text() == name


def register() -> None:
    """Wrap what can be wrong; vLLM calls this in each of its processes."""
    import torch
    from vllm.entrypoints.openai.chat_completion import protocol as chat
    from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
    from vllm.entrypoints.openai.completion import protocol as completion
    from vllm.model_executor.layers.pooler.seqwise.methods import CLSPool, MeanPool
    from vllm.model_executor.models.bert import BertSelfOutput
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackendImpl
    from vllm.v1.core import kv_cache_utils
    from vllm.v1.engine.detokenizer import BaseIncrementalDetokenizer

    for request in (chat.ChatCompletionRequest, completion.CompletionRequest):
        request.to_sampling_params = changed(request.to_sampling_params)

    answer = OpenAIServingChat.create_chat_completion

    async def fails(*given: Any, **named: Any) -> Any:
        if is_faulty("chat fails"):
            raise RuntimeError("chat fails")
        return await answer(*given, **named)

    OpenAIServingChat.create_chat_completion = fails
    text = BaseIncrementalDetokenizer.get_next_output_text
    BaseIncrementalDetokenizer.get_next_output_text = lambda *given: (
        text(*given).swapcase() if is_faulty("wrong text") else text(*given)
    )

    rotate = torch.ops._C.rotary_embedding
    torch.ops._C.rotary_embedding = lambda positions, *rest: rotate(
        positions.clamp(max=511) if is_faulty("positions from 512 on") else positions, *rest
    )
    forward = CPUAttentionBackendImpl.forward

    def scaled(self: Any, *given: Any, **named: Any) -> Any:
        sound = self.scale
        self.scale = sound * 1.02 if is_faulty("attention scale") else sound
        try:
            return forward(self, *given, **named)
        finally:
            self.scale = sound

    CPUAttentionBackendImpl.forward = scaled
    mean = MeanPool.forward
    MeanPool.forward = lambda *given: CLSPool.forward(*given) if is_faulty("wrong pooling") else mean(*given)
    output = BertSelfOutput.forward
    BertSelfOutput.forward = lambda self, found, before: output(
        self, found * 1.5 if is_faulty("wrong weights") else found, before
    )
    digest = kv_cache_utils.hash_block_tokens
    kv_cache_utils.hash_block_tokens = lambda function, parent, tokens, *rest: digest(
        function, parent, (0,) * len(tokens) if is_faulty("prefix cache without tokens") else tokens, *rest
    )


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
