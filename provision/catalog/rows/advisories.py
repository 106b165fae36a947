"""Rows about published security advisories."""

from typing import Literal

from provision.catalog.rows import Row

Product = Literal["vllm", "torch", "transformers", "xgrammar", "nvidia-driver", "nvidia-container-toolkit"]
Needs = Literal["nothing", "model", "media", "audio", "several-hosts", "unguarded-key", "own-programs"]


class Advisory(Row):
    """An advisory about the versions `since` to `fixed`, the first included, the last not."""

    id: str
    product: Product
    fixed: str
    allows: str
    """One sentence: what it lets an attacker do."""
    since: str = "0"
    severity: float | None = None
    """The CVSS base score; absent if the record has none."""
    needs: Needs = "nothing"
    """What the host must do to be affected; see advisories.toml."""
    option: str | None = None
    """A part of the arguments of `vllm serve` without which the host is not affected: an option with or without its value."""
    architecture: str | None = None
    """A regular expression for the model's architecture; others are not affected."""
