"""How stage works for a bundle, and from one: under one key for all index settings, and with what it looked up written down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from provision.artifacts.bundle.manifest import BundledClass, Remembered
from provision.artifacts.user_index import ClientSettings, redact
from provision.artifacts.wheelhouse import Store
from provision.models.stack import Stack

_LOCAL = frozenset({"manifests", "forge", "published"})
"""What only this machine can use: hashes of files in its own folders, where its builds and downloads came from. The lock names their wheels."""


def sealed(settings: ClientSettings) -> ClientSettings:
    """The same settings, with stage's results kept under one key whatever they are: elsewhere they will be others."""
    return replace(settings, sealed=True)


class NotingStore(Store):
    """A wheelhouse that notes what stage looked up or wrote down: the bundle carries it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._noted: dict[tuple[str, str], dict[str, Any]] = {}

    def recall(self, kind: str, key: str) -> dict[str, Any] | None:
        found = super().recall(kind, key)
        if found is not None:
            self._noted[kind, key] = found
        return found

    def remember(self, kind: str, key: str, value: Mapping[str, Any]) -> Path:
        self._noted[kind, key] = dict(value)
        return super().remember(kind, key, value)

    def noted(self) -> tuple[Remembered, ...]:
        """Everything that another machine can use, in a fixed order, without credentials in addresses."""
        return tuple(
            Remembered(kind=kind, key=key, value=json.loads(redact(json.dumps(value))))
            for (kind, key), value in sorted(self._noted.items())
            if kind not in _LOCAL
        )


@dataclass(frozen=True)
class Bundled:
    """What a bundle is for. Stage asks it when a class of hosts is not in it."""

    name: str
    classes: tuple[BundledClass, ...]

    def difference(self, stack: Stack) -> str:
        """In what a Stack differs from the nearest one of the bundle."""
        differences = sorted((_differences(stack, held.stack) for held in self.classes), key=len)
        return "; ".join(differences[0]) or "another release of the product made it"


def _differences(wanted: Stack, held: Stack) -> list[str]:
    pairs = [
        ("vLLM", _build(wanted.vllm), _build(held.vllm)),
        ("torch", _build(wanted.torch), _build(held.torch)),
        ("Python", wanted.interpreter.version, held.interpreter.version),
        ("platform", wanted.platform, held.platform),
        ("flash-attn", _package(wanted), _package(held)),
        ("supervisor", wanted.supervisor == "supervisor", held.supervisor == "supervisor"),
    ]
    return [
        f"{what} {_said(here)} is wanted, the bundle has {_said(there)}" for what, here, there in pairs if here != there
    ]


def _build(build: Any) -> str:
    return f"{build.version} ({build.variant})" if build else "none"


def _package(stack: Stack) -> str:
    package = stack.flash_attn.package
    return f"{package.version} for {', '.join(package.key.capabilities)}" if package else "none"


def _said(value: Any) -> str:
    return (
        {True: "of its own", False: "of the system"}.get(value, str(value)) if isinstance(value, bool) else str(value)
    )
