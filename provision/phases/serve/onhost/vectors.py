"""Compute on the host what a user's embedding model or reranker answers to fixed texts.

The environment's Python runs this single file:

    vectors.py --folder MODELS/NAME --task embed|score --reference FILE [--unlike REASON]

transformers computes eagerly in float32 on the CPU, from the files that the server reads, and pools as the files of sentence-transformers say;
without them as vLLM does by default. FILE has the `inputs`, and their `vectors`, or why there are none (`unknown`): a service is then
verified by less. Code of the model's repository is never run.

Exits with 1 and a message on stderr where FILE cannot be written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

SAW = "the telescope saw its first light on a clear night in march."
BOIL = "boil the potatoes in salted water for twenty minutes."
PLATES = " ".join(f"plate {number} shows {number * number} stars." for number in range(1, 9))
INPUTS: dict[str, list[Any]] = {
    "embed": [SAW, BOIL, PLATES],
    "score": [["when did the telescope see its first light?", text] for text in (SAW, BOIL, PLATES)],
}
"""Without capitals, which some models of sentence-transformers ignore, and short: some have 128 positions."""

DEFAULT_POOLING = {
    "bert": "cls",
    "roberta": "cls",
    "xlm-roberta": "cls",
    "modernbert": "cls",
    "llama": "last",
    "mistral": "last",
    "qwen2": "last",
    "qwen3": "last",
}
"""How vLLM makes one vector of those of all tokens, by `model_type`, for the types that it and transformers compute alike.

Source: `default_pooling_type` of vllm/model_executor/models, 0.32.0.
"""
POOLING_MODES = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
"""The names of sentence-transformers."""
SCORERS = ("bert", "roberta", "xlm-roberta", "modernbert")
MODULES = ("Transformer", "Pooling", "Normalize")
ANOTHER = ("auto_map", "quantization_config")
"""Keys of config.json by which the model is computed otherwise than its type says."""
MEMORY_SHARE = 0.5
"""Share of the free memory that the model may take in float32."""
MOST_MIB = 20_000
"""The largest model in float32: the proof waits for its vectors, which a processor computes."""


class UnknownError(Exception):
    """This program does not know what the model computes."""


def question(task: str) -> str:
    """Return a short digest of the inputs for a task."""
    return hashlib.sha256(json.dumps(INPUTS[task]).encode()).hexdigest()[:12]


def read_json(path: Path) -> Any:
    """Return a JSON document; None where the file is absent or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def pooling_of(folder: Path, kind: str) -> tuple[str, bool]:
    """Return how a model's files pool, and whether the vector then has length 1. Raises UnknownError."""
    modules = read_json(folder / "modules.json")
    if modules is None:
        return DEFAULT_POOLING[kind], True
    names = [str(module["type"]).rpartition(".")[2] for module in modules]
    if others := [name for name in names if name not in MODULES]:
        raise UnknownError(f"modules.json has a layer `{others[0]}`")
    path = next((module["path"] for module, name in zip(modules, names, strict=True) if name == "Pooling"), "")
    config = read_json(folder / path / "config.json") if path else None
    asked = [config.get("pooling_mode")] if config else []
    asked += [
        name.partition("pooling_mode_")[2].partition("_tokens")[0].partition("_token")[0]
        for name, value in (config or {}).items()
        if value is True
    ]
    found = [name for name in asked if name]
    if len(found) != 1 or found[0] not in POOLING_MODES:
        raise UnknownError(f"modules.json pools by `{', '.join(found) or 'nothing'}`")
    return POOLING_MODES[found[0]], "Normalize" in names


def available_mib() -> int:
    """Return the free memory of the host, in MiB."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) >> 10


def require_known(folder: Path, task: str) -> dict[str, Any]:
    """Return the configuration of a model that can be computed here. Raises UnknownError for any other."""
    config: dict[str, Any] = read_json(folder / "config.json") or {}
    kind, known = config.get("model_type"), DEFAULT_POOLING if task == "embed" else SCORERS
    if kind not in known:
        raise UnknownError(f"only {', '.join(known)} are computed here, the model is `{kind}`")
    if odd := [name for name in ANOTHER if config.get(name)]:
        raise UnknownError(f"its config.json has `{odd[0]}`")
    if config.get("is_causal") is False or config.get("use_bidirectional_attention"):
        raise UnknownError("its config.json changes which tokens see which")
    # Weights of 16 bits take twice their size.
    needed = 2 * sum(path.stat().st_size for path in folder.glob("*") if path.suffix in (".safetensors", ".bin")) >> 20
    free = available_mib()
    if needed > min(MEMORY_SHARE * free, MOST_MIB):
        raise UnknownError(
            f"it would take up to {needed} MiB in float32; {free} MiB are free, and at most {MOST_MIB} are taken"
        )
    return config


def loaded(folder: Path, kind: str) -> tuple[Any, Any, Any]:
    """Return torch, and the tokenizer and the model as a class of transformers reads them, in float32 on the CPU."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    reader = getattr(transformers, kind)
    model = reader.from_pretrained(str(folder), attn_implementation="eager", local_files_only=True)
    return torch, tokenizer, model.to(device="cpu", dtype=torch.float32).eval()


def embeddings(folder: Path, texts: list[str], mode: str, *, is_normalised: bool) -> list[list[float]]:
    """Return the vector of each text."""
    torch, tokenizer, model = loaded(folder, "AutoModel")
    found = []
    with torch.inference_mode():
        for text in texts:
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            vector = {"cls": hidden[0], "mean": hidden.mean(0), "last": hidden[-1]}[mode]
            found.append((vector / vector.norm() if is_normalised else vector).tolist())
    return found


def scores(folder: Path, pairs: list[list[str]], activation: str) -> list[list[float]]:
    """Return the score of each pair of texts."""
    torch, tokenizer, model = loaded(folder, "AutoModelForSequenceClassification")
    with torch.inference_mode():
        logits = [model(**tokenizer(*pair, return_tensors="pt")).logits[0] for pair in pairs]
    return [(each.sigmoid() if activation == "Sigmoid" else each).tolist() for each in logits]


def activation_of(config: dict[str, Any]) -> str:
    """Return what a reranker's files make of its last number. Raises UnknownError for something else."""
    named = (config.get("sentence_transformers") or {}).get("activation_fn")
    named = named or config.get("sbert_ce_default_activation_function") or "Sigmoid"
    found = "Identity" if config.get("problem_type") == "regression" else str(named).rpartition(".")[2]
    if found not in ("Identity", "Sigmoid"):
        raise UnknownError(f"its scores pass through `{found}`")
    return found


def reference_of(folder: Path, task: str, unlike: str | None) -> dict[str, Any]:
    """Return the inputs and their vectors, or why they are unknown."""
    found: dict[str, Any] = {"inputs": INPUTS[task], "vectors": None, "unknown": unlike, "is_normalised": False}
    if unlike is not None:
        return found
    try:
        config = require_known(folder, task)
        if task == "embed":
            mode, found["is_normalised"] = pooling_of(folder, config["model_type"])
            found["vectors"] = embeddings(folder, INPUTS[task], mode, is_normalised=found["is_normalised"])
        else:
            found["vectors"] = scores(folder, INPUTS[task], activation_of(config))
    except UnknownError as reason:
        found["unknown"] = str(reason)
    except Exception as reason:  # noqa: BLE001 - what transformers raises for files that it cannot read is its own
        found["unknown"] = f"transformers does not compute it: {reason!r}"[:300]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Compute what a model that makes vectors answers to fixed texts.")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--task", choices=INPUTS, required=True)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--unlike", help="why the server computes otherwise than the files say")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    text = json.dumps(reference_of(options.folder, options.task, options.unlike))
    try:
        options.reference.parent.mkdir(exist_ok=True)
        temporary = options.reference.with_name(f".{options.reference.name}.{os.getpid()}")
        temporary.write_text(text)
        temporary.replace(options.reference)
    except OSError as problem:
        sys.stderr.write(f"vectors: {problem}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
