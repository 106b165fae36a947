"""vLLM plugin that records the attention backend of each layer of the running engine.

vLLM calls `register` in each of its processes, including the engine and its workers. From then on the plugin records
every attention layer that the process creates, in `FIRSTLIGHT_PROOF_DIR/attention-PID.json`. Without that variable it
records nothing. The file reports errors of the plugin as `problem`; they never reach the engine.

Standard library only, Python 3.9 or newer: it must load with any release of vLLM.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from . import amx, stacks

LAYER_CLASSES = (
    # From vLLM 0.15: one module per kind of layer.
    ("vllm.model_executor.layers.attention.attention", "Attention"),
    ("vllm.model_executor.layers.attention.mla_attention", "MLAAttention"),
    # 0.2 to 0.14: one module has both; before 0.11.1 the MLA layers are `Attention` too.
    ("vllm.attention.layer", "Attention"),
    ("vllm.attention.layer", "MLAAttention"),
)
"""Layer classes with a backend, by release of vLLM. Every other attention layer is built from these."""

REGISTRIES = ("vllm.v1.attention.backends.registry", "vllm.attention.backends.registry")
"""Modules with the names of all backends, by release of vLLM, the newest first."""

SWITCHES = ("VLLM_ROCM_USE_AITER", "AITER_JIT_DIR")
"""Beginnings of the variables that are recorded."""


def register() -> None:
    """Prepare this process, and start recording where there is a folder for the records."""
    amx.request_tiles()
    folder = os.environ.get("FIRSTLIGHT_PROOF_DIR")
    if not folder or _Notes.of_this_process is not None:
        return
    notes = _Notes(folder)
    _Notes.of_this_process = notes
    stacks.register()
    try:
        _wrap_when_imported(notes)
    except Exception as problem:  # noqa: BLE001  # the engine must start whatever happens here
        notes.problem = f"cannot watch vLLM's attention layers: {problem!r}"
    notes.write()


class _Notes:
    """Attention layers of this process; the file is written again after each layer."""

    of_this_process: _Notes | None = None

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.pid = os.getpid()
        self.layers: list[dict[str, Any]] = []
        self.watched: list[str] = []
        self.problem: str | None = None

    def add(self, layer: Any) -> None:
        if self.pid != os.getpid():
            # A forked child drops the records that it inherits from its parent.
            self.pid, self.layers = os.getpid(), []
        try:
            self.layers.append(describe(layer))
        except Exception as problem:  # noqa: BLE001  # see above
            self.problem = f"cannot describe a {type(layer).__name__}: {problem!r}"
        self.write()

    def write(self) -> None:
        """Write the file atomically; an unwritable folder must not stop the engine."""
        try:
            Path(self.folder).mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=self.folder, prefix=".attention-")
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(self.as_json(), file)
            Path(temporary).replace(Path(self.folder) / f"attention-{self.pid}.json")
        except Exception as problem:  # noqa: BLE001  # see above
            sys.stderr.write(f"firstlight_attention: cannot write the evidence to {self.folder}: {problem!r}\n")

    def as_json(self) -> dict[str, Any]:
        return {
            "pid": self.pid,
            "start_ticks": start_ticks(self.pid),
            "vllm": getattr(sys.modules.get("vllm"), "__version__", None),
            "watched": self.watched,
            "variables": variables(),
            "layers": self.layers,
            "problem": self.problem,
        }


def describe(layer: Any) -> dict[str, Any]:
    """Return the properties of one attention layer. An attribute that this release lacks is None."""
    implementation = getattr(layer, "impl", None)
    # What torch takes for new tensors while a model is being created.
    torch, dtype = sys.modules.get("torch"), getattr(layer, "dtype", None)
    if dtype is None and torch is not None:
        dtype = torch.get_default_dtype()
    device = torch.get_default_device() if torch is not None and hasattr(torch, "get_default_device") else None
    return {
        "name": getattr(layer, "layer_name", None),
        "kind": type(layer).__name__,
        "backend": backend_name(layer),
        "implementation": None if implementation is None else _qualified_name(type(implementation)),
        "flash_attention_version": flash_attention_version(implementation),
        "flash_functions": flash_functions(implementation),
        "dtype": None if dtype is None else re.sub(r"^torch\.", "", str(dtype)),
        "device": None if device is None else str(device),
    }


def variables() -> dict[str, str]:
    """Return the variables of this process that switch attention kernels on AMD cards."""
    return {name: os.environ[name] for name in sorted(os.environ) if name.startswith(SWITCHES)}


def backend_name(layer: Any) -> str | None:
    """Return the name with which the backend is asked for, else that of its class or of the enumeration of older releases."""
    backend = getattr(layer, "attn_backend", None)
    if backend is not None and hasattr(backend, "get_name"):
        return _registered_name(backend) or str(backend.get_name())
    member = getattr(layer, "backend", None)
    name = getattr(member, "name", None)
    return None if name is None else str(name)


def _registered_name(backend: type) -> str | None:
    """Return the name of a backend class in the registry of vLLM; several classes of AMD call themselves FLASH_ATTN."""
    for name in REGISTRIES:
        members = getattr(sys.modules.get(name), "AttentionBackendEnum", None) or ()
        by_class = {member.value: str(member.name) for member in members}
        for kind in getattr(backend, "__mro__", ()):
            if _qualified_name(kind) in by_class:
                return by_class[_qualified_name(kind)]
    return None


def flash_attention_version(implementation: Any) -> int | None:
    """Return the generation of the flash kernels that this layer calls; None where unknown."""
    for name in ("vllm_flash_attn_version", "fa_version"):
        value = getattr(implementation, name, None)
        if isinstance(value, int):
            return value
    return None


def flash_functions(implementation: Any) -> str | None:
    """Return the module with the flash function that a layer calls: vLLM's own copy, or a package; None where it calls none."""
    module = sys.modules.get(type(implementation).__module__)
    return getattr(getattr(module, "flash_attn_varlen_func", None), "__module__", None)


def start_ticks(pid: int) -> int | None:
    """Return the start of a process in clock ticks since boot, which together with the PID identifies the process.

    After a reboot another process may have both values, but then it has overwritten this file. The kernel's boot ID
    would add nothing: in a container, a service with a protected /proc reads a different one than its neighbours.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The command's name is in parentheses and may contain blanks; field 22 is the twentieth after it.
    return int(text.rpartition(")")[2].split()[19])


def _qualified_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _wrap_when_imported(notes: _Notes) -> None:
    """Wrap the layer classes now where their module is loaded, else when it is imported."""
    waiting: dict[str, list[str]] = {}
    for module_name, class_name in LAYER_CLASSES:
        waiting.setdefault(module_name, []).append(class_name)
    for module_name in [name for name in waiting if name in sys.modules]:
        _wrap_classes(sys.modules[module_name], waiting.pop(module_name), notes)
    sys.meta_path.insert(0, _Watcher(waiting, notes))


def _wrap_classes(module: ModuleType, class_names: Sequence[str], notes: _Notes) -> None:
    for class_name in class_names:
        layer_class = getattr(module, class_name, None)
        # A release that moved a class may keep its name in the old module: wrap each class once.
        if layer_class is None or _qualified_name(layer_class) in notes.watched:
            continue
        layer_class.__init__ = _noting(layer_class.__init__, notes)
        notes.watched.append(_qualified_name(layer_class))


def _noting(original: Callable[..., None], notes: _Notes) -> Callable[..., None]:
    @functools.wraps(original)
    def noted(self: Any, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        notes.add(self)

    return noted


class _Watcher(importlib.abc.MetaPathFinder):
    """Import hook: the usual finder loads a module, and this hook wraps its classes after its code has run."""

    def __init__(self, waiting: dict[str, list[str]], notes: _Notes) -> None:
        self.waiting = waiting
        self.notes = notes

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self.waiting:
            return None
        class_names = self.waiting.pop(fullname)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_and_wrap(module: ModuleType) -> None:
            run(module)
            try:
                _wrap_classes(module, class_names, self.notes)
            except Exception as problem:  # noqa: BLE001  # see above
                self.notes.problem = f"cannot watch {fullname}: {problem!r}"
            self.notes.write()

        spec.loader.exec_module = run_and_wrap  # type: ignore[method-assign]
        return spec
