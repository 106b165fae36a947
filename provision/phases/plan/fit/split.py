"""Into how many parts a model can be cut: vLLM's own conditions, and what one part then holds."""

from __future__ import annotations

from provision.phases.plan.fit.shape import Shape

VOCABULARY_STEP = 64
"""vLLM pads the vocabulary to a multiple of this before it divides it (vocab_parallel_embedding.py, 0.32.0)."""


def padded_vocabulary(shape: Shape) -> int:
    return -(-shape.vocabulary // VOCABULARY_STEP) * VOCABULARY_STEP


def why_not(shape: Shape, tensor: int) -> str | None:
    """Why a model cannot be cut into so many parts; null when it can.

    The conditions are those of verify_with_parallel_config (vllm/config/model.py) and of the `divide` calls in QKVParallelLinear,
    ColumnParallelLinear and VocabParallelEmbedding, 0.32.0.
    """
    kv = shape.kv_heads
    checks = [
        (shape.heads % tensor == 0, f"{shape.heads} attention heads"),
        (shape.latent is not None or max(kv, tensor) % min(kv, tensor) == 0, f"{kv} key-value heads"),
        (padded_vocabulary(shape) % tensor == 0, f"a vocabulary of {padded_vocabulary(shape)}"),
        *((width % tensor == 0, f"an inner width of {width}") for width in shape.inner),
    ]
    broken = [what for holds, what in checks if not holds]
    return f"{' and '.join(broken)} cannot be divided by {tensor}" if broken else None


def tensor_sizes(shape: Shape, most: int) -> tuple[int, ...]:
    """Every size up to `most` that the model can be cut into."""
    return tuple(size for size in range(1, most + 1) if why_not(shape, size) is None)


def stages(layers: int, parts: int) -> tuple[int, ...]:
    """Layers of each pipeline stage: equal, the rest going to the stages before the last (get_pp_indices, vllm/distributed/utils.py)."""
    counts = [layers // parts] * parts
    for place in range(2, layers % parts + 2):
        counts[-place] += 1
    return tuple(counts)


def stage_windows(shape: Shape, parts: int) -> list[tuple[int | None, ...]]:
    """The layers' windows, stage by stage."""
    found, start = [], 0
    for count in stages(shape.layers, parts):
        found.append(shape.windows[start : start + count])
        start += count
    return found


def weight_bytes(shape: Shape, tensor: int, pipeline: int, element: int) -> int:
    """Weights on the fullest device, in bytes: its stage's layers and the embedding, cut into `tensor` parts; what each part holds whole besides."""
    total = shape.weights.total if shape.quantization else shape.weights.as_served(element)
    embedding = min(padded_vocabulary(shape) * shape.hidden * element, total)
    tables = embedding if shape.tied else min(2 * embedding, total)
    layer = (total - tables) / shape.layers
    fullest = max(stages(shape.layers, pipeline))
    held = embedding if pipeline > 1 else tables
    return int((fullest * layer + held) / tensor + fullest * _whole(shape, tensor, element))


def _whole(shape: Shape, tensor: int, element: int) -> float:
    """Bytes a layer that every part holds beyond its share: replicated key heads, MLA's compression, its absorbed projections."""
    if shape.latent is not None:
        compressed = shape.hidden * (shape.query_latent + shape.latent) * (1 - 1 / tensor)
        return (compressed + shape.absorbed / tensor) * element
    if tensor <= shape.kv_heads:
        return 0.0
    return 2 * shape.hidden * shape.head_size * (1 - shape.kv_heads / tensor) * element
