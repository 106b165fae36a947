"""engine.answers: vLLM's tokens compared with the model in float64, for several ways to batch and split prompts."""

import gc
import inspect
import math
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from verify.host.devices import memory
from verify.operators.reference import chi_square_share, truncated_probabilities
from verify.records import CheckContext, CheckResult, Figure, first_few
from verify.serving import small_llama
from verify.serving.answers import Answer
from verify.tables import table

MODEL = "builtin-1"
"""The product's built-in model, under PREFIX/models."""
PROMPTS, LENGTH = 16, 12
"""The longest prompts have more than 200 tokens, to reach positions that short ones do not."""
SHARED = 48
"""Common first tokens of half of the prompts: three blocks of a prefix cache."""
DRAWS = 256
"""Sampled tokens per limit."""
TEMPERATURE = 2.0
"""High, so that many tokens are likely."""
LIMITS = ((5, 1.0), (0, 0.6), (20, 0.7))
"""top-k (0 for none) and top-p."""
CHUNK = 32
"""Tokens computed at once if prompts are split; most prompts are longer."""
MEMORY_SHARE = 0.08
"""Share of a GPU's memory; a service may need the rest."""
CACHE_BYTES = 256 << 20
"""Size of the key-value cache: all prompts with their answers take 30 MiB in float32."""
WAYS: Mapping[str, Mapping[str, Any]] = {
    "whole prompts, no prefix cache": {"enable_prefix_caching": False, "max_num_batched_tokens": 2048},
    "split prompts, prefix cache": {"enable_prefix_caching": True, "max_num_batched_tokens": CHUNK},
}


def run(context: CheckContext) -> CheckResult:
    folder = (context.prefix or Path("/nonexistent")) / "models" / MODEL
    if not folder.is_dir() and not context.faults:
        remedy = "install one: ./firstlight provision --model builtin"
        return CheckResult("skip", f"no model at {folder}", remedy=remedy)
    if folder.is_dir() and (crowded := _crowded(context)):
        return crowded
    with TemporaryDirectory(prefix="firstlight-") as compiled:
        os.environ |= {"VLLM_CACHE_ROOT": compiled, **sampling_environment(context.stack.get("flashinfer"), compiled)}
        return _asked(context, folder)


def _asked(context: CheckContext, folder: Path) -> CheckResult:
    """Ask engines of the model in a folder, and compare their answers with the model in float64."""
    # Without a model, an injected fault is proven on the reference's own answers.
    stood_in = not folder.is_dir()
    model = small_llama.tiny() if stood_in else small_llama.load(folder)
    requested = prompts(model.config["vocab_size"])
    # GPUs' flash kernels use 16 bits; the weights are exact in both precisions.
    dtype = "bfloat16" if torch.cuda.is_available() else "float32"
    worst: dict[str, float] = {}
    problems = []
    drawn: float | None = None
    for way, options in WAYS.items():
        if stood_in:
            runs = [_own(model, requested)] * 2
        else:
            runs, share = _ask_engine(folder, dtype, options, requested, model if drawn is None else None)
            drawn = share if drawn is None else drawn
        if "wrong-result" in context.faults:
            runs[0] = [*runs[0][:3], spoiled(runs[0][3]), *runs[0][4:]]
        problems += [f"{way}: {text}" for text in _compare(model, requested, runs, dtype, worst, way)]
    drawn = drawn or 0.0
    if not drawn <= 1:
        problems.append(f"sampled tokens do not match top-k and top-p: {drawn:.3g} times the bound")
    bound = table("tolerances")["engine"][dtype]
    source = table("tolerances")["engine"]["source"]
    figures = tuple(
        Figure(f"log probability, {way}", value, "nat off", ceiling=bound, source=source)
        for way, value in worst.items()
    )
    chance = table("tolerances")["sampling"]["source"]
    figures += (Figure("draws, chi square", drawn, "share of bound", ceiling=1, source=chance),)
    evidence = {"model": str(folder), "dtype": dtype, "prompts": PROMPTS, "tokens each": LENGTH, "ways": dict(WAYS)}
    if problems:
        return CheckResult("fail", first_few(problems, 2), figures, evidence, "do not serve with this environment")
    text = f"{PROMPTS} prompts at once, {len(WAYS)} ways, twice each: every token matches the float64 reference, sampled ones keep to top-k and top-p"
    return CheckResult("ok", text, figures, evidence)


def _crowded(context: CheckContext) -> CheckResult | None:
    """Return a skip if the first GPU has no memory for an engine in addition to its current use; None if it has, and on CPUs."""
    if not torch.cuda.is_available():
        return None
    free, total = memory("cuda:0")
    if free >= MEMORY_SHARE * total:
        return None
    service = context.service
    holder = f"{service.name} is running, and" if service and service.main_pid else "other processes are running:"
    text = f"{holder} {free / 2**30:.1f} of {total / 2**30:.0f} GiB are free, an engine needs {MEMORY_SHARE:.0%}"
    return CheckResult("skip", text, remedy="stop the service for the checks: --drain")


def sampling_environment(plan: Mapping[str, Any] | None, folder: str) -> dict[str, str]:
    """Return the variables with which vLLM samples as the service does that has this FlashInfer, if any, in its Stack.

    What FlashInfer compiles goes to the folder.
    """
    plan = plan or {}
    if plan.get("kernels") == "off":
        return {"VLLM_USE_FLASHINFER_SAMPLER": "0"}
    if plan.get("kernels") != "compiled":
        return {}
    home = plan.get("toolkit") or "/usr/local/cuda"
    path = [f"{sys.prefix}/bin", f"{home}/bin", os.environ.get("PATH", os.defpath)]
    return {"CUDA_HOME": home, "PATH": os.pathsep.join(path), "FLASHINFER_WORKSPACE_BASE": folder}


def prompts(vocabulary: int) -> list[list[int]]:
    """Return prompts of one to many tokens, without special tokens; the second half has a common prefix."""
    usable = vocabulary // 2
    prefix = [(17 * place + 5) % usable for place in range(SHARED)]
    found = []
    for number in range(PROMPTS):
        own = [(31 * place + 7 * number * number + 3) % usable for place in range(1 + number * number)]
        found.append(own if number < PROMPTS // 2 else prefix + own)
    return found


def _ask_engine(
    folder: Path, dtype: str, options: Mapping[str, Any], requested: list[list[int]], model: small_llama.Llama | None
) -> tuple[list[list[Answer]], float | None]:
    """Return the greedy answers of one engine, computed twice, and with a model the error of its samples (see `_drawn`).

    The engine ends with this call: an engine that ends later would take the next one's process groups with it.
    """
    engine = _engine(folder, dtype, options)
    try:
        runs = [_answers(engine, requested) for _ in range(2)]
        return runs, None if model is None else _drawn(engine, model, requested[3])
    finally:
        del engine
        gc.collect()


def _vllm() -> Any:
    """Import vLLM, which reads its variables then; a stand-in of the model needs none."""
    import vllm  # noqa: PLC0415 - see above

    return vllm


def _engine(folder: Path, dtype: str, options: Mapping[str, Any]) -> Any:
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    llm = _vllm().LLM
    # Otherwise vLLM measures what is free, and ends with an error if another process, another check too, frees memory of the card meanwhile.
    name = "kv_cache_memory_bytes"
    cache = {name: CACHE_BYTES} if name in inspect.signature(llm).parameters else {}
    return llm(
        model=str(folder),
        dtype=dtype,
        max_model_len=512,
        max_num_seqs=PROMPTS,
        enforce_eager=True,
        gpu_memory_utilization=MEMORY_SHARE,
        **cache,
        **options,
    )


def _answers(engine: Any, requested: list[list[int]]) -> list[Answer]:
    wanted = _vllm().SamplingParams(temperature=0, max_tokens=LENGTH, logprobs=1, ignore_eos=True)
    batch = [{"prompt_token_ids": tokens} for tokens in requested]
    return [_answer(output.outputs[0]) for output in engine.generate(batch, wanted, use_tqdm=False)]


def _drawn(engine: Any, model: small_llama.Llama, prompt: list[int]) -> float:
    """Return how far an engine's samples are from the expected frequencies under each limit; see chi_square_share."""
    logits = (model.logprobs(prompt)[-1] / TEMPERATURE).tolist()
    batch = [{"prompt_token_ids": prompt}] * DRAWS
    shares = []
    for k, p in LIMITS:
        wanted = _vllm().SamplingParams(temperature=TEMPERATURE, top_k=k, top_p=p, max_tokens=1, ignore_eos=True)
        found = [output.outputs[0].token_ids[0] for output in engine.generate(batch, wanted, use_tqdm=False)]
        shares.append(chi_square_share(Counter(found), truncated_probabilities(logits, k or len(logits), p)))
    return max(shares)


def _own(model: small_llama.Llama, requested: list[list[int]]) -> list[Answer]:
    """Return the answers of the reference itself."""
    answers = []
    for prompt in requested:
        tokens, logprobs = list(prompt), []
        for _ in range(LENGTH):
            row = model.logprobs(tokens)[-1]
            tokens.append(int(row.argmax()))
            logprobs.append(float(row.max()))
        answers.append(Answer(tuple(tokens[len(prompt) :]), tuple(logprobs)))
    return answers


def _answer(output: Any) -> Answer:
    tokens = tuple(output.token_ids)
    return Answer(tokens, tuple(entry[token].logprob for token, entry in zip(tokens, output.logprobs, strict=True)))


def _compare(  # noqa: PLR0917 - all of one call, and it is ours alone
    model: small_llama.Llama,
    requested: Sequence[list[int]],
    runs: Sequence[Sequence[Answer]],
    dtype: str,
    worst: dict[str, float],
    way: str,
) -> list[str]:
    problems = []
    for number, prompt in enumerate(requested):
        first, second = (run[number] for run in runs)
        if first.tokens != second.tokens:
            problems.append(f"prompt {number + 1} has another answer the second time")
        rows = {
            tokens: model.logprobs([*prompt, *tokens])[len(prompt) - 1 : -1] for tokens in {first.tokens, second.tokens}
        }
        for answer in (first, second):
            text, off = evaluate(answer, rows[answer.tokens].tolist(), table("tolerances")["engine"][dtype])
            worst[way] = max(worst.get(way, 0.0), off)
            problems += [f"prompt {number + 1}, {text}"] if text else []
    return problems


def evaluate(answer: Answer, exact: Sequence[Sequence[float]], bound: float) -> tuple[str | None, float]:
    """Return what is wrong with an answer, and the largest error of its log probabilities.

    `exact` are the reference's after each token. A token that is not its first choice may be within twice the bound of it.
    """
    if len(answer.tokens) != LENGTH:
        return f"{len(answer.tokens)} tokens instead of {LENGTH}", float("inf")
    off = 0.0
    wild = [logprob for logprob in answer.logprobs if not math.isfinite(logprob)]
    if wild:
        return f"{len(wild)} log probabilities are not finite", float("inf")
    for place, (token, logprob, row) in enumerate(zip(answer.tokens, answer.logprobs, exact, strict=True)):
        lead = max(row) - row[token]
        if lead > 2 * bound:
            return f"token {place + 1} is {token}, and {row.index(max(row))} leads by {lead:.3f}", float("inf")
        off = max(off, abs(logprob - row[token]))
    if not off <= bound:
        return f"log probabilities are off by {off:.3g}, at most {bound} allowed", off
    return None, off


def spoiled(answer: Answer) -> Answer:
    """Return the answer with the injected fault: one token is replaced by its neighbour."""
    return Answer((answer.tokens[0] ^ 1, *answer.tokens[1:]), answer.logprobs)
