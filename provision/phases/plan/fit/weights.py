"""How many bytes a model's weights take, by number format: from the headers of safetensors files, or from what a listing says."""

from __future__ import annotations

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
"""Bytes a number, by the names of the safetensors format."""
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""Formats that vLLM turns into the one it computes in when the model is not quantised."""
_MOST_HEADER = 100_000_000
"""The format's own limit of a header, in bytes."""
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes by number format, in descending order. `said` names where they were read."""

    by_dtype: tuple[tuple[str, int], ...]
    said: str

    @property
    def total(self) -> int:
        return sum(size for _, size in self.by_dtype)

    def as_served(self, element: int) -> int:
        """Bytes once every float is held in a format of `element` bytes."""
        return sum(int(size / BYTES_OF[dtype] * element) if dtype in FLOATS else size for dtype, size in self.by_dtype)


def counted(sizes: Mapping[str, int], said: str) -> Weights:
    """Weights from bytes by format."""
    return Weights(tuple(sorted(sizes.items(), key=lambda item: (-item[1], item[0]))), said)


def of_headers(headers: Iterable[Mapping[str, Any]], *, layers: int | None = None) -> Weights:
    """The sum over all tensors of all headers; layers from number `layers` on (draft layers) are not loaded and not counted."""
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
    """The header of a safetensors file: name to `dtype`, `shape`, `data_offsets`.

    Raises ModelError when the file is none, or ends before the last tensor that its header names.
    """
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = parse_object(file.read(min(size, _MOST_HEADER)))
        of_headers([header])
        ends = [int(tensor["data_offsets"][1]) for name, tensor in header.items() if name != "__metadata__"]
        wanted, there = 8 + size + max(ends, default=0), path.stat().st_size
    except (OSError, ValueError, TypeError, KeyError, AttributeError, struct.error) as error:
        raise ModelError(
            f"`{path}` is no safetensors file: {error}", hint="fetch the model again: this file was cut or is another"
        ) from None
    if there < wanted:
        raise ModelError(
            f"`{path}` was cut: it has {there} bytes, its header names tensors up to byte {wanted}",
            hint="fetch the model again",
        )
    return header


def in_folder(folder: Path, *, layers: int | None = None) -> Weights:
    """The weights in a model's folder: from headers where they are safetensors, else the size of the files.

    Raises ModelError when there are none.
    """
    files = sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("consolidated"))
    files = files or sorted(folder.glob("*.safetensors"))
    if files:
        return of_headers((read_header(path) for path in files), layers=layers)
    pickled = sorted(folder.glob("*.bin"))
    if not pickled:
        raise ModelError(f"`{folder}` holds no weights", hint="a model's folder holds *.safetensors beside config.json")
    return counted({"BF16": sum(path.stat().st_size for path in pickled)}, "the size of the files")
