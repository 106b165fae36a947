"""Table of vLLM's options by release (options.toml), and the switches that keep it from writing to another GPU's memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packaging.version import Version

from provision.core.models.settings import option_of
from provision.core.tables import own_table


def options() -> dict[str, Any]:
    """Return the table in options.toml."""
    return own_table(Path(__file__).with_name("options.toml"))


def has(feature: str, vllm_version: str) -> bool:
    """Return whether a release of vLLM has the option of a table row."""
    return Version(vllm_version) >= Version(options()[feature]["since"])


def peer_write_switches(version: str) -> dict[str, str]:
    """Return the variables that switch off peer writes in a release of vLLM."""
    rows = options()["no_peer_writes"]["environment"]
    return {name: row["value"] for name, row in rows.items() if Version(version) >= Version(row["since"])}


def without_peer_writes(version: str, given: Sequence[str]) -> tuple[str, ...]:
    """Return the user's arguments of `vllm serve` plus options against peer writes; the user's own choices win, also of the compiler.

    vLLM takes only the last of several compiler settings, so nothing is added to those of the user.
    """
    row = options()["no_peer_writes"]
    own = (row["option"],) if row["option"] not in given else ()
    is_fused = Version(version) >= Version(row["fusion"]["since"])
    chosen = any(option_of(word).partition(".")[0] in row["compilation"] for word in given)
    fusion = (f"{row['compilation'][0]}.pass_config.{row['fusion']['field']}=false",)
    return (*own, *given, *(fusion if is_fused and not chosen else ()))
