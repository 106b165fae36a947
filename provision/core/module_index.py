"""Where modules were found when a command ran before, so that Python does not search for them again.

A command imports 600 modules and lives for half a second. To find each one, Python looks into several folders and computes the name of its
byte code: a seventh of the processor time of a `provision` that changes nothing.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from types import CodeType, ModuleType

NAME = "modules.index"
"""The file, in the folder of the virtual environment: whoever may write there decides what runs anyway."""
_Place = tuple[str, bool]
"""The source of a module, and whether it is a package."""
_CHECKED = MAGIC_NUMBER + bytes(4)
"""How byte code begins whose source is known by its time and size (PEP 552)."""


class _Loader(SourceFileLoader):
    """Loads byte code from its known place where it is that of the source; otherwise Python's own way is taken."""

    def __init__(self, fullname: str, source: str, cached: str, found: os.stat_result) -> None:
        super().__init__(fullname, source)
        self._cached = cached
        numbers = (int(found.st_mtime), found.st_size)
        self._head = _CHECKED + b"".join((number & 0xFFFFFFFF).to_bytes(4, "little") for number in numbers)

    def get_code(self, fullname: str) -> CodeType | None:
        with contextlib.suppress(OSError, EOFError, ValueError, TypeError):
            data = self.get_data(self._cached)
            if data.startswith(self._head):
                code = marshal.loads(memoryview(data)[len(self._head) :])  # noqa: S302 - as Python does
                if isinstance(code, CodeType) and code.co_filename == self.path:
                    return code
        return super().get_code(fullname)


class ModuleIndex:
    """A finder for `sys.meta_path`. What it does not know, or what is no longer in its place, the finders after it search for.

    Args:
        file: Where it is kept. It counts only for the same Python, the same `sys.path` and the same installed distributions.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._of = [sys.version, *sys.path, *map(_changed, sys.path)]
        self._places: dict[str, _Place] = {}
        with contextlib.suppress(OSError, EOFError, ValueError, TypeError):
            of, places = marshal.loads(file.read_bytes())  # noqa: S302 - as trusted as byte code
            if of == self._of:
                self._places = dict(places)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how a module is loaded from its known place; None where that is unknown, or not among the folders to search."""
        place = self._places.get(fullname)
        if place is None:
            return None
        source, is_package = place
        own, _, file = source.rpartition("/")
        if (own.rpartition("/")[0] if is_package else own) not in (sys.path if path is None else path):
            return None
        try:
            found = os.stat(source)  # noqa: PTH116 - a path object for each module takes a part of what is saved
        except OSError:
            return None
        cached = f"{own}/__pycache__/{file.removesuffix('.py')}.{sys.implementation.cache_tag}.pyc"
        spec = ModuleSpec(fullname, _Loader(fullname, source, cached, found), origin=source, is_package=is_package)
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(own)
        spec.has_location = True
        spec.cached = cached
        return spec

    def keep(self) -> None:
        """Write the file where this process has imported modules that are not in it; a folder that cannot be written is left as it is."""
        new = {
            name: place
            for name, module in list(sys.modules.items())
            if name not in self._places and (place := _place(name, module)) is not None
        }
        if not new:
            return
        from provision.core.run_folder import write_atomically

        with contextlib.suppress(OSError):
            write_atomically(self._file, marshal.dumps((self._of, {**self._places, **new})), durable=False)


def use_index() -> ModuleIndex | None:
    """Find modules by the index of this virtual environment before `sys.path` is searched; None outside of one."""
    if sys.prefix == sys.base_prefix:
        return None
    index = ModuleIndex(Path(sys.prefix, NAME))
    sys.meta_path.insert(sys.meta_path.index(PathFinder), index)
    return index


def _changed(folder: str) -> int:
    """Return when distributions were installed or removed last in a folder of them; 0 for any other folder."""
    with contextlib.suppress(OSError):
        if folder.endswith("-packages"):
            return Path(folder).stat().st_mtime_ns
    return 0


def _place(name: str, module: ModuleType) -> _Place | None:
    """Return the place of a module that Python found by itself in a folder; None of any other."""
    spec = getattr(module, "__spec__", None)
    if spec is None or spec.name != name or type(spec.loader) is not SourceFileLoader or not spec.origin:
        return None
    return spec.origin, spec.submodule_search_locations is not None
