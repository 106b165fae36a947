"""The key-value cache: bytes of a block, tokens that fit, the longest context.

Source: vllm/v1/core/kv_cache_utils.py, 0.32.0.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from provision.phases.plan.fit.shape import Shape
from provision.phases.plan.fit.split import stage_windows

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
        return sum(self._group(window, length) for window in self.windows)

    def _group(self, window: int | None, length: int) -> int:
        if window is None:
            return -(-length // self.block)
        # one more, since a window can begin inside a block
        return -(-min(window - 1 + self.in_flight, length) // self.block) + 1

    def bytes_for(self, length: int) -> int:
        """Return the bytes for a request of `length` tokens, including the one block that the pool reserves."""
        return (self.needed(length) + 1) * self.block_bytes

    def longest(self, size: int, most: int) -> int:
        """Return the longest context, up to `most` tokens, whose request fits in `size` bytes; 0 if none does."""
        return bisect_right(range(1, most + 1), size, key=self.bytes_for)

    def tokens(self, size: int, length: int) -> int:
        """Return the tokens that vLLM's log reports for `size` bytes: the number of requests of `length` tokens, times `length`."""
        return int(self.blocks(size) / self.needed(length) * length)


def layer_bytes(shape: Shape, tensor: int, element: int) -> int:
    """Return the bytes of one token in one layer of one device."""
    if shape.latent is not None:
        return shape.latent * element
    return max(1, shape.kv_heads // tensor) * 2 * shape.head_size * element


def cache_of(shape: Shape, *, tensor: int, pipeline: int, element: int, block: int, in_flight: int) -> Cache:
    """Return the cache of the device with the largest one.

    Args:
        element: Bytes of a number in the cache.
        in_flight: Tokens that are scheduled but not yet freed.
    """
    groups = _groups(shape.windows)
    width = _width(shape.windows)
    if pipeline > 1:
        width = max(_widest(stage, groups) for stage in stage_windows(shape, pipeline))
    return Cache(block, width * block * layer_bytes(shape, tensor, element), groups, in_flight)


def _width(windows: Sequence[int | None]) -> int:
    counts = [windows.count(kind) for kind in dict.fromkeys(windows)]
    least, most = min(counts), max(counts)
    return most if most < least * _NEARLY_EQUAL else least


def _groups(windows: Sequence[int | None]) -> tuple[int | None, ...]:
    """Return the window of each group of layers. Groups have one width, so a kind with more layers has more groups."""
    width = _width(windows)
    return tuple(kind for kind in dict.fromkeys(windows) for _ in range(-(-windows.count(kind) // width)))


def _widest(stage: Sequence[int | None], groups: tuple[int | None, ...]) -> int:
    """Return the layers of a stage's fullest group; vLLM distributes the layers of a kind over its groups."""
    return max(-(-stage.count(kind) // groups.count(kind)) for kind in dict.fromkeys(groups))
