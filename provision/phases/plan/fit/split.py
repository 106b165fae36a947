"""The valid splits of a model by vLLM's conditions; on the fullest device the bytes of its weights, and of its key-value cache.

Source of the cache: vllm/v1/core/kv_cache_utils.py, 0.32.0.
"""

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from provision.phases.plan.fit.shape import Shape
from provision.phases.plan.fit.weights import counted

VOCABULARY_STEP = 64
"""vLLM pads the vocabulary to a multiple of this before it divides it (vocab_parallel_embedding.py, 0.32.0)."""


def padded_vocabulary(shape: Shape) -> int:
    return -(-shape.vocabulary // VOCABULARY_STEP) * VOCABULARY_STEP


def why_not(shape: Shape, tensor: int) -> str | None:
    """Return the first reason why a model cannot be split into so many parts; None if it can.

    Source: verify_with_parallel_config in vllm/config/model.py, and the `divide` calls in QKVParallelLinear, ColumnParallelLinear
    and VocabParallelEmbedding, 0.32.0; validate_fp8_block_shape in vllm/model_executor/layers/quantization/utils/fp8_utils.py.
    """
    kv, blocks = shape.kv_heads, shape.blocked if tensor > 1 else ()
    checks = [
        (shape.heads % tensor == 0, f"{shape.heads} attention heads"),
        (shape.latent is not None or max(kv, tensor) % min(kv, tensor) == 0, f"{kv} key-value heads"),
        (padded_vocabulary(shape) % tensor == 0, f"a vocabulary of {padded_vocabulary(shape)}"),
        *((width % tensor == 0, f"an inner width of {width}") for width in shape.inner),
        (shape.encoder_heads % tensor == 0, f"{shape.encoder_heads} attention heads of the encoder"),
        (shape.encoder_inner % tensor == 0, f"an inner width of {shape.encoder_inner} of the encoder"),
        *(
            (width % (shape.block * tensor) == 0, f"an inner width of {width} in blocks of {shape.block}")
            for width in blocks
        ),
    ]
    return next((f"{what} cannot be divided by {tensor}" for holds, what in checks if not holds), None)


def tensor_sizes(shape: Shape, most: int) -> tuple[int, ...]:
    """Return every valid tensor parallel size up to `most`."""
    return tuple(size for size in range(1, most + 1) if why_not(shape, size) is None)


def stages(layers: int, parts: int) -> tuple[int, ...]:
    """Return the layers of each pipeline stage: equal, with the remainder in the stages before the last.

    Source: get_pp_indices in vllm/distributed/utils.py.
    """
    counts = [layers // parts] * parts
    for place in range(2, layers % parts + 2):
        counts[-place] += 1
    return tuple(counts)


def weight_bytes(shape: Shape, tensor: int, pipeline: int, element: int, data: int = 1) -> int:
    """Return the weights on the fullest device, in bytes: a part of its stage's layers and embedding, and what every part replicates.

    Experts are split over all `data` replicas too (FusedMoEParallelConfig in vllm/model_executor/layers/fused_moe/config.py, 0.32.0).
    """
    total, embedding, tables = _sizes(shape, element)
    layer = (total - tables) / shape.layers
    fullest = max(stages(shape.layers, pipeline))
    table = embedding if pipeline > 1 else tables
    apart = (1 - 1 / data) * _expert_bytes(shape, layer, element)
    return int((fullest * (layer - apart) + table) / tensor + fullest * _replicated(shape, tensor, element))


def quantised(shape: Shape, element: int, *, method: str, stored: float) -> Shape:
    """Return a model as vLLM serves it when it quantises the layers itself; the vocabulary keeps its format.

    Args:
        element: Bytes of a weight that is not quantised.
        method: The name of the quantisation.
        stored: Bytes of a weight that is.
    """
    total, _, tables = _sizes(shape, element)
    weights = counted({"U8": tables + int((total - tables) * stored / element)}, shape.weights.source)
    return replace(shape, quantization=method, weights=weights)


def _sizes(shape: Shape, element: int) -> tuple[int, int, int]:
    """Return the bytes of all weights, of the embedding, and of the embedding with the output layer."""
    total = shape.weights.total if shape.quantization else shape.weights.as_served(element)
    embedding = min(padded_vocabulary(shape) * shape.hidden * element, total)
    return total, embedding, embedding if shape.tied else min(2 * embedding, total)


def _expert_bytes(shape: Shape, layer: float, element: int) -> float:
    """Return the bytes of a layer that are its experts': what attention leaves of it, at most what they would take as served."""
    most = 3 * shape.experts * shape.hidden * shape.expert_inner * element
    attention = 4 * shape.hidden * shape.heads * shape.head_size * element
    return max(0.0, min(most, layer - attention))


def _replicated(shape: Shape, tensor: int, element: int) -> float:
    """Return the bytes of a layer that each part has beyond its share: key heads, MLA's compression and absorbed projections."""
    if shape.latent is not None:
        compressed = shape.hidden * (shape.query_latent + shape.latent) * (1 - 1 / tensor)
        return (compressed + shape.absorbed / tensor) * element
    if tensor <= shape.kv_heads:
        return 0.0
    return 2 * shape.hidden * shape.head_size * (1 - shape.kv_heads / tensor) * element


_NEARLY_EQUAL = 1.5
"""Below this ratio of layers, groups are padded to the larger one (_get_kv_cache_groups_uniform_page_size)."""


@dataclass(frozen=True)
class Cache:
    """The cache of one device. All groups use blocks of one size from one pool."""

    block: int
    """Tokens of a block."""
    block_bytes: int
    windows: tuple[int | None, ...]
    """The window of each group."""
    in_flight: int
    """Tokens that are scheduled but not yet freed."""

    def blocks(self, size: int) -> int:
        """Return the number of whole blocks in `size` bytes."""
        return max(size, 0) // self.block_bytes

    def needed(self, length: int) -> int:
        """Return the number of blocks for one request of `length` tokens."""
        whole = -(-length // self.block)
        found = 0
        for window in self.windows:
            # one more, since a window can begin inside a block
            found += -(-min(window - 1 + self.in_flight, length) // self.block) + 1 if window else whole
        return found

    def bytes_for(self, length: int) -> int:
        """Return the bytes for a request of `length` tokens, including the one block that the pool reserves."""
        return (self.needed(length) + 1) * self.block_bytes

    def longest(self, size: int, most: int) -> int:
        """Return the longest context, up to `most` tokens, whose request fits in `size` bytes; 0 if none does."""
        return bisect_right(range(1, most + 1), size, key=self.bytes_for)

    def tokens(self, size: int, length: int) -> int:
        """Return the tokens that vLLM's log reports for `size` bytes: the number of requests of `length` tokens, times `length`."""
        return int(self.blocks(size) / self.needed(length) * length)


def cache_of(shape: Shape, *, tensor: int, pipeline: int, element: int, block: int, in_flight: int) -> Cache:
    """Return the cache of the device with the largest one.

    Args:
        element: Bytes of a number in the cache.
        in_flight: Tokens that are scheduled but not yet freed.
    """
    numbers = shape.latent or max(1, shape.kv_heads // tensor) * 2 * shape.head_size
    counts = Counter(shape.windows)
    least, most = min(counts.values()), max(counts.values())
    width = most if most < least * _NEARLY_EQUAL else least
    # Groups of layers have one width, so a kind with more layers has more groups.
    groups = {kind: -(-count // width) for kind, count in counts.items()}
    if pipeline > 1:
        # vLLM distributes the layers of a kind in a stage over its groups
        ends = accumulate(stages(shape.layers, pipeline), initial=0)
        parts = [shape.windows[start:end] for start, end in pairwise(ends)]
        width = max(-(-part.count(kind) // count) for part in parts for kind, count in groups.items())
    windows = tuple(kind for kind, count in groups.items() for _ in range(count))
    return Cache(block, width * block * numbers * element, windows, in_flight)
