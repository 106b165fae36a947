"""The tables of this package: the architectures of models, and the memory needs of an engine."""

from functools import cache
from pathlib import Path
from typing import Any, Literal

from provision.catalog.rows import Row
from provision.catalog.versions import numbers
from provision.core.tables import own_table, rows_of

_ARCHITECTURES = Path(__file__).with_name("architectures.toml")
_NEEDS = Path(__file__).with_name("needs.toml")


class Architecture(Row):
    """Model classes with the same kind of attention; architectures.toml explains the values."""

    names: tuple[str, ...]
    attention: Literal["uniform", "layered", "latent", "mixed"]
    full_every: int = 0
    sinks: bool = False
    defaults: dict[str, Any] | None = None


class Batch(Row):
    """vLLM's default batch, by the memory of the card."""

    from_gib: int
    tokens: int
    sequences: int


class Platform(Row):
    """Sizes in GiB on a device: context, buffers between peers, captured graphs. `block` is in tokens, `overlap` in batches."""

    family: str
    block: int
    latent_block: int
    """The block of MLA models, in tokens."""
    memory_share: float
    overlap: int
    context: float
    peers: float
    graphs: float


class Engine(Row):
    """Figures of every platform; needs.toml explains the values."""

    logit_copies: int
    hidden_copies: int
    inner_copies: int
    least_length: int
    length_step: int
    cpu_share: float
    cpu_least: float


def rules(
    of: Literal[
        "alibi",
        "inputs",
        "keys",
        "cache_types",
        "compressed",
        "encoders",
        "float16",
        "own_attention",
        "part_defaults",
        "prefix",
        "rope",
    ],
) -> dict[str, Any]:
    """Return a table on config.json: the words in its keys that tell what a model takes besides text; the spellings of each value, of which the first present one applies; what a part for text has where it leaves a key out; the types of the KV cache; which models have an encoder that is divided, compress keys and values, weigh distances, or have attention layers of their own; whose images see all of themselves; which models are computed in float32 where GPUs have no bfloat16; rotary scaling, which can extend the context."""
    return dict(own_table(_ARCHITECTURES)[of])


def lacks_bfloat16(capability: str | None) -> bool:
    """Return whether GPUs of a compute capability cannot compute in bfloat16; False where it is unknown."""
    return capability is not None and numbers(capability) < numbers(rules("float16")["below"])


@cache
def architectures() -> dict[str, Architecture]:
    """Return every known model class by name."""
    return {name: row for row in rows_of(_ARCHITECTURES, "architecture", Architecture) for name in row.names}


platforms = cache(lambda: {row.family: row for row in rows_of(_NEEDS, "platform", Platform)})
batches = cache(lambda: rows_of(_NEEDS, "batch", Batch))
engine = cache(lambda: rows_of(_NEEDS, "engine", Engine)[0])


def online() -> dict[str, float]:
    """Return the bytes of a layer's weight by the value of `--quantization` that quantises a model while it is loaded."""
    return {name: size for name, size in own_table(_NEEDS)["online"].items() if name != "source"}


def speculative() -> dict[str, Any]:
    """Return the methods of speculative decoding that have no layers of their own, and the last release that is wrong on CPUs."""
    return dict(own_table(_NEEDS)["speculative"])
