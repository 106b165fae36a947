"""Make the built-in model and its reference answer on the host, without a download.

Runs by the environment's own Python as one file:

    builtin_model.py --folder MODELS/builtin-1                                          the model, in a moment
    builtin_model.py --folder MODELS/builtin-1 --reference FILE --environment DIGEST    and its answer, by transformers

The model is Llama-shaped and small. Every weight is a small integer over a power of two, drawn from SHAKE-128 of the
weight's name: float32, bfloat16 and float16 hold exactly the same model, and each machine makes the same bytes of every file
(the weights' sha256 stands below), whatever releases its environment holds. A file that differs is made again. Head counts are multiples of 8, so that it can be split over 2, 4 or 8 devices; the head size is one that
every attention backend of vLLM takes; there are fewer key heads than query heads, as in today's models.

The reference is what transformers computes eagerly in float32: 32 greedy tokens, their log probabilities and the distance
of the two largest logits at each. The seed was chosen for an answer that proves much (many distinct tokens, no near ties);
an environment that computes one which does not is refused.

Prints one JSON line: {"changed": bool, "seed": int, "seconds": float, ...}; `made` names the files that were wrong or nobody's. Exit 1 with a sentence on stderr when it cannot.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VERSION = 1
VOCABULARY = 512
HIDDEN = 256
INTERMEDIATE = 512
LAYERS = 4
HEADS = 16
KEY_HEADS = 8
HEAD_SIZE = 64
MAX_LENGTH = 1024
BOS, EOS, PAD = 509, 510, 511

WEIGHTS, MARKER = "model.safetensors", "builtin.json"
FIRST_SEED = 1
WEIGHTS_SHA256 = {1: "18fd17b70c2d44712dd24ec8ddffec3796c36728713d7a1de32de65ebc76ebe9"}
"""Of the weights by seed, so that a machine on which arithmetic or disk is broken is noticed at once."""

ANSWER_LENGTH = 32
MINIMUM_DISTINCT = 16
MINIMUM_GAP = 0.05

PROMPT_TEXT = (
    "The dome was opened at dusk. The mirror had cooled, the clock was set by the meridian, and the guide star stood low in "
    "the east. At first the air was restless; after midnight it lay still. Every plate was numbered before it was exposed, "
    "and the numbers were read aloud twice, so that none was lost. Night 04769: first light."
)
"""So long that the answer stands beyond 200 positions, where wrong angles of far positions tell. Of six thousand nights the one
whose answer has the largest smallest gap: 0.15, where bfloat16 moves logits by 0.2."""


def weight_shapes() -> Iterator[tuple[str, tuple[int, ...], int]]:
    """Name, shape and binary exponent of each weight; a negative exponent marks the constant 1.0 of a norm."""
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN), 4
    for layer in range(LAYERS):
        stem = f"model.layers.{layer}"
        yield f"{stem}.input_layernorm.weight", (HIDDEN,), -1
        yield f"{stem}.self_attn.q_proj.weight", (HEADS * HEAD_SIZE, HIDDEN), 8
        yield f"{stem}.self_attn.k_proj.weight", (KEY_HEADS * HEAD_SIZE, HIDDEN), 8
        yield f"{stem}.self_attn.v_proj.weight", (KEY_HEADS * HEAD_SIZE, HIDDEN), 10
        yield f"{stem}.self_attn.o_proj.weight", (HIDDEN, HEADS * HEAD_SIZE), 10
        yield f"{stem}.post_attention_layernorm.weight", (HIDDEN,), -1
        yield f"{stem}.mlp.gate_proj.weight", (INTERMEDIATE, HIDDEN), 10
        yield f"{stem}.mlp.up_proj.weight", (INTERMEDIATE, HIDDEN), 10
        yield f"{stem}.mlp.down_proj.weight", (HIDDEN, INTERMEDIATE), 10
    yield "model.norm.weight", (HIDDEN,), -1
    yield "lm_head.weight", (VOCABULARY, HIDDEN), 8


def weight_integers(seed: int, name: str, count: int) -> Any:
    """A numpy array of integers in -126..126, bell-shaped: the sum of four uniform ones each."""
    import numpy as np  # type: ignore[import-not-found]

    stream = hashlib.shake_128(f"firstlight-{VERSION}-{seed}-{name}".encode()).digest(4 * count)
    parts = np.frombuffer(stream, dtype=np.uint8).reshape(count, 4) & 63
    return parts.sum(axis=1, dtype=np.int16) - 126


def bfloat16_bytes(seed: int, name: str, shape: tuple[int, ...], exponent: int) -> bytes:
    """A weight as little-endian bfloat16: the upper half of float32, exact because the values have 7 bits."""
    import numpy as np

    count = int(np.prod(shape))
    if exponent < 0:
        values = np.ones(count, dtype="<f4")
    else:
        values = weight_integers(seed, name, count).astype("<f4") / np.float32(2**exponent)
    halves = (values.view("<u4") >> 16).astype("<u2")
    return bytes(halves.tobytes())


def safetensors_bytes(seed: int) -> bytes:
    """The whole model in the safetensors format: length of the header, header, data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blocks: list[bytes] = []
    position = 0
    for name, shape, exponent in weight_shapes():
        block = bfloat16_bytes(seed, name, shape, exponent)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [position, position + len(block)]}
        position += len(block)
        blocks.append(block)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(blocks)


def configuration() -> dict[str, Any]:
    """config.json as transformers writes it for this family."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_HEADS,
        "head_dim": HEAD_SIZE,
        "hidden_act": "silu",
        "max_position_embeddings": MAX_LENGTH,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "use_cache": True,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "torch_dtype": "bfloat16",
    }


def byte_symbols() -> list[str]:
    """The printable sign that stands for each byte in byte-level vocabularies, in the order of the bytes."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    shifted = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(shifted)) for byte in range(256)]


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """256 bytes, then pairs of frequent letters as merges until only the three special tokens are missing."""
    symbols = {symbol: number for number, symbol in enumerate(byte_symbols())}
    letters = "etaoinshrdlucmfw"
    pairs = [(first, second) for first in letters for second in letters][: BOS - len(symbols)]
    return symbols | {a + b: len(symbols) + number for number, (a, b) in enumerate(pairs)}, pairs


def prompt_tokens() -> list[int]:
    """The fixed prompt as token ids: its bytes, so that no tokenizer's version has a say."""
    return [BOS, *PROMPT_TEXT.encode()]


def question() -> str:
    """A short digest of what the reference answers: the prompt, and how many tokens are asked for."""
    return hashlib.sha256(json.dumps([prompt_tokens(), ANSWER_LENGTH]).encode()).hexdigest()[:12]


def write(path: Path, content: bytes) -> None:
    """Write whole or not at all, readable by the service's user."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.chmod(0o644)
    temporary.replace(path)


def tokenizer() -> dict[str, Any]:
    """tokenizer.json: byte-level, and all 512 ids have a text, so that any answer can be shown.

    Merges are written as every release of tokenizers reads them; from 0.20 on they are written as pairs as well.
    """
    entries, merges = vocabulary()
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": id_, "content": text, **plain} for id_, text in ((BOS, "<s>"), (EOS, "</s>"), (PAD, "<pad>"))
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": entries,
            "merges": [f"{first} {second}" for first, second in merges],
        },
    }


TOKENIZER_CONFIGURATION = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "model_max_length": MAX_LENGTH,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "pad_token": "<pad>",
    "chat_template": "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}",
}


def json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def small_files(seed: int) -> dict[str, bytes]:
    """Every file of the model but its weights, by name."""
    marker = {"version": VERSION, "seed": seed, "sha256": WEIGHTS_SHA256[seed]}
    return {
        "config.json": json_bytes(configuration()),
        "tokenizer.json": json_bytes(tokenizer()),
        "tokenizer_config.json": json_bytes(TOKENIZER_CONFIGURATION),
        MARKER: json_bytes(marker),
    }


def reference_of(folder: Path) -> dict[str, Any]:
    """The greedy answer of the model in `folder`, computed eagerly in float32 on the CPU by transformers."""
    import torch
    import transformers
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

    transformers.utils.logging.disable_progress_bar()
    # The keyword for the number type was renamed in transformers 4.56; converting afterwards is the same in every release.
    model = LlamaForCausalLM.from_pretrained(str(folder), attn_implementation="eager", local_files_only=True)
    model = model.to(device="cpu", dtype=torch.float32).eval()
    prompt = prompt_tokens()
    tokens: list[int] = []
    given, cache = prompt, None
    with torch.inference_mode():
        for _ in range(ANSWER_LENGTH):
            step = model(torch.tensor([given]), past_key_values=cache, use_cache=True)
            tokens.append(int(step.logits[0, -1].argmax()))
            given, cache = tokens[-1:], step.past_key_values
        # What is kept of the answer comes from one pass over all of it, without a cache.
        rows = model(torch.tensor([prompt + tokens]), use_cache=False).logits[0, len(prompt) - 1 : -1]
        chosen = rows.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None])[:, 0]
        top = rows.topk(2, dim=-1)
    return {
        "prompt": prompt,
        "tokens": tokens,
        "logprobs": [round(value, 6) for value in chosen.tolist()],
        "gaps": [round(value, 6) for value in (top.values[:, 0] - top.values[:, 1]).tolist()],
        "runners_up": top.indices[:, 1].tolist(),
        "largest_logit": round(float(rows.abs().max()), 4),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def proves_enough(reference: dict[str, Any]) -> bool:
    """Whether equal tokens would mean something: enough different ones, none of them by a hair."""
    return len(set(reference["tokens"])) >= MINIMUM_DISTINCT and min(reference["gaps"]) >= MINIMUM_GAP


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file, or an empty one when it is absent or cut short."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def wrong_files(folder: Path, seed: int) -> list[str]:
    """The model's files that are not there with their content. Nothing on the disk is taken for the measure."""
    wanted = small_files(seed)
    wrong = [name for name, content in wanted.items() if read_bytes(folder / name) != content]
    weights = read_bytes(folder / WEIGHTS)
    if weights is None or hashlib.sha256(weights).hexdigest() != WEIGHTS_SHA256[seed]:
        wrong.insert(0, WEIGHTS)
    return wrong


def read_bytes(path: Path) -> bytes | None:
    """Null where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def make_model(folder: Path, seed: int, names: list[str]) -> None:
    """Write these files of the model, its marker last.

    Raises ValueError when the bytes are not the known ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = small_files(seed)
    if WEIGHTS in names:
        files = {WEIGHTS: safetensors_bytes(seed), **files}
        known, found = WEIGHTS_SHA256[seed], hashlib.sha256(files[WEIGHTS]).hexdigest()
        if known != found:
            raise ValueError(
                f"the built-in model's weights have sha256 {found}, known is {known}: this machine computes wrongly"
            )
    for name, content in files.items():
        if name in names:
            write(folder / name, content)


def remove_others(folder: Path, seed: int) -> list[str]:
    """Remove what lies in the folder and is neither the model's nor a reference answer: an engine reads some files where they are there."""
    kept = {WEIGHTS, *small_files(seed)}
    others = [
        path for path in sorted(folder.iterdir()) if path.name not in kept and not path.name.startswith("reference-")
    ]
    for path in others:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return [path.name for path in others]


def keep_manifest(folder: Path, seed: int) -> bool:
    """List the model's files next to their folder, each with CRC-32, size and name: whether that was to be written.

    The weights' line is of the bytes on the disk: they have just been compared with their known hash.
    """
    files = {WEIGHTS: (folder / WEIGHTS).read_bytes(), **small_files(seed)}
    lines = [f"{zlib.crc32(content):08x} {len(content)} {name}\n" for name, content in sorted(files.items())]
    text, path = "".join(lines).encode(), folder.with_name(f"{folder.name}.manifest.txt")
    if read_bytes(path) == text:
        return False
    write(path, text)
    return True


def make(folder: Path, reference: Path | None, environment: str) -> dict[str, Any]:
    """Bring the model, and the reference where one is asked for, to the wanted state and say what was done."""
    wrong = wrong_files(folder, FIRST_SEED)
    if wrong:
        make_model(folder, FIRST_SEED, wrong)
    wrong += remove_others(folder, FIRST_SEED)
    changed = keep_manifest(folder, FIRST_SEED) or bool(wrong)
    marker = read_json(folder / MARKER)
    if reference is None:
        return {"changed": changed, "seed": marker["seed"], "made": wrong}
    known = read_json(reference)
    wanted = {"sha256": marker["sha256"], "environment": environment, "prompt": prompt_tokens()}
    if any(known.get(name) != value for name, value in wanted.items()):
        known = {**marker, "environment": environment, **reference_of(folder)}
        if not proves_enough(known):
            raise ValueError(
                f"transformers answers with {len(set(known['tokens']))} distinct tokens and a smallest gap of {min(known['gaps'])};"
                f" the model gives {MINIMUM_DISTINCT} and {MINIMUM_GAP} at least: this environment computes something else"
            )
        reference.parent.mkdir(parents=True, exist_ok=True)
        write(reference, json_bytes(known))
        changed = True
    return {"changed": changed, "seed": marker["seed"], "distinct": len(set(known["tokens"]))}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make the built-in model and its reference answer.")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--environment", help="digest of the environment that computes the reference")
    options = parser.parse_args(arguments)
    if (options.reference is None) != (options.environment is None):
        parser.error("--reference and --environment go together")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    started = time.monotonic()
    try:
        result = make(options.folder, options.reference, options.environment)
    except (OSError, ValueError, ImportError) as problem:
        sys.stderr.write(f"builtin_model: {problem}\n")
        return 1
    sys.stdout.write(json.dumps({**result, "seconds": round(time.monotonic() - started, 3)}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
