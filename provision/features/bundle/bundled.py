"""A bundle as the source of a run: its difference from a Stack, and the hosts that may have its environments.

A signature says who created a bundle, not that it is the newest. An old one, with errors that are known by now, is properly signed too.
So a host gets no environment of an older bundle than its last one, unless the user accepts that.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision.core.errors import BundleError
from provision.core.models.inventory import Host
from provision.core.models.stack import Stack
from provision.features.bundle.manifest import BundledClass
from provision.fleet.host_records import HostRecord, HostRecords, address_of


class LastBundle(HostRecord):
    """The bundle that a host's environment was last prepared from: LOGS/bundles/HOST.json on the controller."""

    name: str
    made_at: str


@dataclass(frozen=True)
class Bundled:
    """A bundle whose files are in the wheelhouse."""

    name: str
    made_at: str
    """When it was created: UTC, ISO 8601."""
    classes: tuple[BundledClass, ...]
    """The classes of hosts that it serves."""
    accepts_older: bool = False
    """Whether the user accepts that it is older than the last one of a host."""

    def difference(self, stack: Stack) -> str:
        """Describe the difference between a Stack and the nearest one of the bundle."""
        differences = sorted((_differences(stack, row.stack) for row in self.classes), key=len)
        return "; ".join(differences[0]) or "another release of the product created it"

    def accept(self, host: Host, logs: Path) -> None:
        """Keep this bundle as the last one of a host whose environment changes.

        Raises:
            BundleError: The bundle is older than the last one of the host, and the user does not accept that.
        """
        records, last = HostRecords(logs / "bundles", LastBundle), None
        with contextlib.suppress(OSError, ValueError):
            last = records.get(host)
        if last is not None and self.made_at < last.made_at and not self.accepts_older:
            raise BundleError(
                f"`{self.name}` was created {self.made_at}, and `{host.name}` got an environment from "
                f"`{last.name}` of {last.made_at} already",
                hint="use the newer bundle; to go back on purpose, add --older-bundle",
            )
        records.put(host, LastBundle(address=address_of(host), name=self.name, made_at=self.made_at))


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
