"""What a bundle holds for stage, and how a Stack that it was not made for differs from those that it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from provision.core.models.stack import Stack
from provision.phases.stage.bundle.manifest import BundledClass


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
