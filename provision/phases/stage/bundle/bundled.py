"""The content of a bundle for the stage phase, and its difference from a Stack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from provision.core.models.stack import Stack
from provision.phases.stage.bundle.manifest import BundledClass


@dataclass(frozen=True)
class Bundled:
    """The classes of hosts that a bundle serves."""

    name: str
    made_at: str
    classes: tuple[BundledClass, ...]

    def difference(self, stack: Stack) -> str:
        """Describe the difference between a Stack and the nearest one of the bundle."""
        differences = sorted((_differences(stack, row.stack) for row in self.classes), key=len)
        return "; ".join(differences[0]) or "another release of the product created it"


def _differences(wanted: Stack, present: Stack) -> list[str]:
    pairs = [
        ("vLLM", _build(wanted.vllm), _build(present.vllm)),
        ("torch", _build(wanted.torch), _build(present.torch)),
        ("Python", wanted.interpreter.version, present.interpreter.version),
        ("platform", wanted.platform, present.platform),
        ("flash-attn", _package(wanted), _package(present)),
        ("service manager", _supervisor(wanted), _supervisor(present)),
        ("executor", wanted.executor, present.executor),
    ]
    return [f"{what} {here} is wanted, the bundle has {there}" for what, here, there in pairs if here != there]


def _build(build: Any) -> str:
    return f"{build.version} ({build.variant})" if build else "none"


def _package(stack: Stack) -> str:
    package = stack.flash_attn.package
    return f"{package.version} for {', '.join(package.key.capabilities)}" if package else "none"


def _supervisor(stack: Stack) -> str:
    return "supervisor" if stack.supervisor == "supervisor" else "that of the system"
