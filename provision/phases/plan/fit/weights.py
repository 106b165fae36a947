"""The bytes of a model's weights by number format, from the headers of safetensors files or from a listing."""

import re
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision.core.errors import ModelError
from provision.core.json_text import parse_object

BYTES_OF = {
    "F64": 8.0, "I64": 8.0, "U64": 8.0, "F32": 4.0, "I32": 4.0, "U32": 4.0, "F16": 2.0, "BF16": 2.0, "I16": 2.0, "U16": 2.0,
    "F8_E4M3": 1.0, "F8_E5M2": 1.0, "F8_E8M0": 1.0, "I8": 1.0, "U8": 1.0, "BOOL": 1.0, "F6_E2M3": 0.75, "F6_E3M2": 0.75, "F4": 0.5,
}  # fmt: skip
"""Bytes of a number, by the format's name in safetensors."""
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""Formats that vLLM converts to its own format if the model is not quantised."""
KNOWN = "figures of Firstlight"
"""The source of weights that nobody could be asked for."""
_MOST_HEADER = 100_000_000
"""The limit of the safetensors format for a header, in bytes."""
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")


@dataclass(frozen=True)
class Weights:
    """Bytes by number format, in descending order."""

    by_dtype: tuple[tuple[str, int], ...]
    source: str
    """Where the bytes were read."""

    @property
    def total(self) -> int:
        return sum(size for _, size in self.by_dtype)

    def as_served(self, element: int) -> int:
        """Return the bytes if every float is stored in `element` bytes."""
        return sum(int(size / BYTES_OF[dtype] * element) if dtype in FLOATS else size for dtype, size in self.by_dtype)


def counted(sizes: Mapping[str, int], source: str) -> Weights:
    """Return weights from bytes by format."""
    return Weights(tuple(sorted(sizes.items(), key=lambda item: (-item[1], item[0]))), source)


def of_headers(headers: Iterable[Mapping[str, Any]], *, layers: int | None = None) -> Weights:
    """Return the sum over all tensors of all headers. Layers from number `layers` on are draft layers, which are not loaded."""
    sizes: Counter[str] = Counter()
    for header in headers:
        for name, tensor in header.items():
            if name == "__metadata__":
                continue
            found = _LAYER.search(name)
            if found and layers is not None and int(found[1]) >= layers:
                continue
            start, end = tensor["data_offsets"]
            sizes[str(tensor["dtype"])] += end - start
    return counted(sizes, "the headers of the safetensors files")


def read_header(path: Path) -> dict[str, Any]:
    """Return the header of a safetensors file: `dtype`, `shape` and `data_offsets` by name.

    Raises:
        ModelError: The file is not in this format, or it ends before its last tensor.
    """
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = parse_object(file.read(min(size, _MOST_HEADER)))
        of_headers([header])
        ends = [int(tensor["data_offsets"][1]) for name, tensor in header.items() if name != "__metadata__"]
        wanted, size_on_disk = 8 + size + max(ends, default=0), path.stat().st_size
    except (OSError, ValueError, TypeError, KeyError, AttributeError, struct.error) as error:
        raise ModelError(
            f"`{path}` is not a safetensors file: {error}", hint="fetch the model again: this file is damaged"
        ) from None
    if size_on_disk < wanted:
        raise ModelError(
            f"`{path}` is truncated: it has {size_on_disk} bytes, its tensors end at byte {wanted}",
            hint="fetch the model again",
        )
    return header


def in_folder(folder: Path, *, layers: int | None = None) -> Weights:
    """Return the weights in a model's folder: from the headers of safetensors files, else from the size of the files.

    Raises:
        ModelError: The folder has no weights.
    """
    files = sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("consolidated"))
    files = files or sorted(folder.glob("*.safetensors"))
    if files:
        return of_headers((read_header(path) for path in files), layers=layers)
    pickled = sorted(folder.glob("*.bin"))
    if not pickled:
        raise ModelError(
            f"`{folder}` contains no weights", hint="a model's folder contains *.safetensors and config.json"
        )
    return counted({"BF16": sum(path.stat().st_size for path in pickled)}, "the size of the files")
