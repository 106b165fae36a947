"""The valid splits of a model by vLLM's conditions, and the weights of one part."""

from provision.phases.plan.fit.shape import Shape

VOCABULARY_STEP = 64
"""vLLM pads the vocabulary to a multiple of this before it divides it (vocab_parallel_embedding.py, 0.32.0)."""


def padded_vocabulary(shape: Shape) -> int:
    return -(-shape.vocabulary // VOCABULARY_STEP) * VOCABULARY_STEP


def why_not(shape: Shape, tensor: int) -> str | None:
    """Return the first reason why a model cannot be split into so many parts; None if it can.

    Source: verify_with_parallel_config in vllm/config/model.py, and the `divide` calls in QKVParallelLinear, ColumnParallelLinear
    and VocabParallelEmbedding, 0.32.0.
    """
    kv = shape.kv_heads
    checks = [
        (shape.heads % tensor == 0, f"{shape.heads} attention heads"),
        (shape.latent is not None or max(kv, tensor) % min(kv, tensor) == 0, f"{kv} key-value heads"),
        (padded_vocabulary(shape) % tensor == 0, f"a vocabulary of {padded_vocabulary(shape)}"),
        *((width % tensor == 0, f"an inner width of {width}") for width in shape.inner),
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


def stage_windows(shape: Shape, parts: int) -> list[tuple[int | None, ...]]:
    """Return the layers' windows for each stage."""
    found, start = [], 0
    for count in stages(shape.layers, parts):
        found.append(shape.windows[start : start + count])
        start += count
    return found


def weight_bytes(shape: Shape, tensor: int, pipeline: int, element: int) -> int:
    """Return the weights on the fullest device, in bytes: a part of its stage's layers and embedding, and what every part replicates."""
    total = shape.weights.total if shape.quantization else shape.weights.as_served(element)
    embedding = min(padded_vocabulary(shape) * shape.hidden * element, total)
    tables = embedding if shape.tied else min(2 * embedding, total)
    layer = (total - tables) / shape.layers
    fullest = max(stages(shape.layers, pipeline))
    table = embedding if pipeline > 1 else tables
    return int((fullest * layer + table) / tensor + fullest * _replicated(shape, tensor, element))


def _replicated(shape: Shape, tensor: int, element: int) -> float:
    """Return the bytes of a layer that each part has beyond its share: key heads, MLA's compression and absorbed projections."""
    if shape.latent is not None:
        compressed = shape.hidden * (shape.query_latent + shape.latent) * (1 - 1 / tensor)
        return (compressed + shape.absorbed / tensor) * element
    if tensor <= shape.kv_heads:
        return 0.0
    return 2 * shape.hidden * shape.head_size * (1 - shape.kv_heads / tensor) * element
