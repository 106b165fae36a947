"""Make the built-in model and its reference answer on the host, without a download.

The environment's Python runs this single file:

    builtin_model.py --folder MODELS/builtin-1                       the model, in a moment
    builtin_model.py --folder MODELS/builtin-1 --reference FILE      and its answer, by transformers

The model is small and has the Llama architecture. Every weight is a small integer over a power of two, drawn from
SHAKE-128 of the weight's name: float32, bfloat16 and float16 represent exactly the same model. Each machine makes the
same bytes of every file (the weights' sha256 is below), whatever releases its environment has. A file that differs is
made again. Head counts are multiples of 8, so that the model can be split over 2, 4 or 8 devices. Every attention
backend of vLLM supports the head size. There are fewer key heads than query heads, as in current models.

The reference is what transformers computes eagerly in float32: 32 greedy tokens, their log probabilities and the
distance of the two largest logits at each. The seed was chosen for an answer that proves much (many distinct tokens, no
near ties); an environment that computes a weaker answer is rejected.

Prints one JSON line: {"changed": bool}. Exits with 1 and a message on stderr on failure.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
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
MAX_LENGTH = 3072
"""Enough for a prompt of 3,000 tokens, which shows faults of far positions and of prompts computed in parts."""
BOS, EOS, PAD = 509, 510, 511

WEIGHTS = "model.safetensors"
SEED = 1
WEIGHTS_SHA256 = "18fd17b70c2d44712dd24ec8ddffec3796c36728713d7a1de32de65ebc76ebe9"
"""Checksum of the weights, which reveals a machine with broken arithmetic or a broken disk at once."""

ANSWER_LENGTH = 32
MINIMUM_DISTINCT = 16
MINIMUM_GAP = 0.05

PROMPT_TEXT = (
    "The dome was opened at dusk. The mirror had cooled, the clock was set by the meridian, and the guide star stood low in "
    "the east. At first the air was restless; after midnight it lay still. Every plate was numbered before it was exposed, "
    "and the numbers were read aloud twice, so that none was lost. Night 04769: first light."
)
"""Long enough for an answer beyond position 200, where wrong angles of far positions have an effect.

Of 6,000 nights, this one's answer has the largest minimum gap: 0.15, where bfloat16 moves logits by 0.2.
"""


def weight_shapes() -> Iterator[tuple[str, tuple[int, ...], int]]:
    """Yield name, shape and binary exponent of each weight; a negative exponent marks the constant 1.0 of a norm."""
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


def bfloat16_bytes(name: str, shape: tuple[int, ...], exponent: int) -> bytes:
    """Return a weight as little-endian bfloat16: the upper half of float32, exact because the values have 7 bits.

    They are integers in -126..126 with a bell-shaped distribution, sums of four uniform ones, over a power of two.
    """
    import numpy as np  # type: ignore[import-not-found]

    count = int(np.prod(shape))
    if exponent < 0:
        values = np.ones(count, dtype="<f4")
    else:
        stream = hashlib.shake_128(f"firstlight-{VERSION}-{SEED}-{name}".encode()).digest(4 * count)
        parts = np.frombuffer(stream, dtype=np.uint8).reshape(count, 4) & 63
        values = (parts.sum(axis=1, dtype=np.int16) - 126).astype("<f4") / np.float32(2**exponent)
    halves = (values.view("<u4") >> 16).astype("<u2")
    return bytes(halves.tobytes())


def safetensors_bytes() -> bytes:
    """Return the whole model in the safetensors format: length of the header, header, data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blocks: list[bytes] = []
    position = 0
    for name, shape, exponent in weight_shapes():
        block = bfloat16_bytes(name, shape, exponent)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [position, position + len(block)]}
        position += len(block)
        blocks.append(block)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(blocks)


def configuration() -> dict[str, Any]:
    """Return config.json as transformers writes it for this family."""
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


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return symbols and merges: 256 bytes, then pairs of frequent letters up to the three special tokens."""
    # Bytes that are printable characters stand for themselves.
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    shifted = iter(range(256, 512))
    symbols = {chr(byte if byte in plain else next(shifted)): byte for byte in range(256)}
    letters = "etaoinshrdlucmfw"
    pairs = [(first, second) for first in letters for second in letters][: BOS - len(symbols)]
    return symbols | {a + b: len(symbols) + number for number, (a, b) in enumerate(pairs)}, pairs


def prompt_tokens() -> list[int]:
    """Return the fixed prompt as token IDs: its bytes, so that a tokenizer's version has no effect."""
    return [BOS, *PROMPT_TEXT.encode()]


def question() -> str:
    """Return a short digest of the question to the reference: the prompt and the number of tokens."""
    return hashlib.sha256(json.dumps([prompt_tokens(), ANSWER_LENGTH]).encode()).hexdigest()[:12]


def write(path: Path, content: bytes) -> None:
    """Write atomically, readable by the service's user."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.chmod(0o644)
    temporary.replace(path)


def tokenizer() -> dict[str, Any]:
    """Return tokenizer.json: byte-level, with a text for each of the 512 IDs, so that any answer can be shown.

    Merges have the form that every release of tokenizers reads; releases from 0.20 on also accept pairs.
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


def small_files() -> dict[str, bytes]:
    """Return every file of the model except its weights, by name."""
    return {
        "config.json": json_bytes(configuration()),
        "tokenizer.json": json_bytes(tokenizer()),
        "tokenizer_config.json": json_bytes(TOKENIZER_CONFIGURATION),
    }


def reference_of(folder: Path) -> dict[str, Any]:
    """Return the greedy answer of the model in `folder`, computed eagerly in float32 on the CPU by transformers."""
    import torch
    import transformers
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

    transformers.utils.logging.disable_progress_bar()
    # transformers 4.56 renamed the keyword for the number type; conversion afterwards works in every release.
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
        # The stored values come from one pass over the whole answer, without a cache.
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


def wrong_files(folder: Path) -> list[str]:
    """Return the model's files that are missing or differ. Expected content never comes from the disk."""
    wanted = small_files()
    wrong = [name for name, content in wanted.items() if read_bytes(folder / name) != content]
    weights = read_bytes(folder / WEIGHTS)
    if weights is None or hashlib.sha256(weights).hexdigest() != WEIGHTS_SHA256:
        wrong.insert(0, WEIGHTS)
    return wrong


def read_bytes(path: Path) -> bytes | None:
    """Return the content of a file; None where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def make_model(folder: Path, names: list[str]) -> None:
    """Write these files of the model. Raises ValueError where the bytes differ from the known ones."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # the service's account goes through it, whatever the umask is
    files = small_files()
    if WEIGHTS in names:
        files = {WEIGHTS: safetensors_bytes(), **files}
        found = hashlib.sha256(files[WEIGHTS]).hexdigest()
        if found != WEIGHTS_SHA256:
            raise ValueError(
                f"the built-in model's weights have sha256 {found}, known is {WEIGHTS_SHA256}: this machine computes wrongly"
            )
    for name, content in files.items():
        if name in names:
            write(folder / name, content)


def remove_others(folder: Path) -> bool:
    """Remove foreign files but no reference answers, and return whether there were any: an engine may read such files."""
    kept = {WEIGHTS, *small_files()}
    others = [
        path for path in sorted(folder.iterdir()) if path.name not in kept and not path.name.startswith("reference-")
    ]
    for path in others:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return bool(others)


def keep_manifest(folder: Path) -> bool:
    """Write CRC-32, size and name of the model's files next to their folder. Return whether that was necessary.

    The weights' line describes the bytes on the disk, which have just been compared with their known hash.
    """
    files = {WEIGHTS: (folder / WEIGHTS).read_bytes(), **small_files()}
    lines = [f"{zlib.crc32(content):08x} {len(content)} {name}\n" for name, content in sorted(files.items())]
    text, path = "".join(lines).encode(), folder.with_name(f"{folder.name}.manifest.txt")
    if read_bytes(path) == text:
        return False
    write(path, text)
    return True


def make(folder: Path, reference: Path | None) -> bool:
    """Bring the model, and the reference if requested, to the desired state. Return whether something changed."""
    wrong = wrong_files(folder)
    if wrong:
        make_model(folder, wrong)
    changed = any((wrong, remove_others(folder), keep_manifest(folder)))
    if reference is None:
        return changed
    try:
        known = json.loads(read_bytes(reference) or b"{}")
    except ValueError:
        known = {}
    wanted = {"sha256": WEIGHTS_SHA256, "prompt": prompt_tokens()}
    if any(known.get(name) != value for name, value in wanted.items()):
        known = {"sha256": WEIGHTS_SHA256, **reference_of(folder)}
        # Equal tokens mean something only where enough are distinct, and none is a near tie.
        distinct, gap = len(set(known["tokens"])), min(known["gaps"])
        if distinct < MINIMUM_DISTINCT or gap < MINIMUM_GAP:
            raise ValueError(
                f"transformers answers with {distinct} distinct tokens and a smallest gap of {gap};"
                f" the model gives {MINIMUM_DISTINCT} and {MINIMUM_GAP} at least: this environment computes something else"
            )
        reference.parent.mkdir(parents=True, exist_ok=True)
        write(reference, json_bytes(known))
        changed = True
    return changed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make the built-in model and its reference answer.")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--reference", type=Path)
    options = parser.parse_args(arguments)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        changed = make(options.folder, options.reference)
    except (OSError, ValueError, ImportError) as problem:
        sys.stderr.write(f"builtin_model: {problem}\n")
        return 1
    sys.stdout.write(json.dumps({"changed": changed}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
