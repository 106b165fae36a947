"""The advisories that apply to a host: by the version of a product, and by what the host does with it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from packaging.version import InvalidVersion, Version

from provision.catalog import catalog
from provision.catalog.rows.builds import Advisory, Needs, Product
from provision.catalog.versions import numbers
from provision.core.models.settings import Settings
from provision.core.models.stack import Input

CRITICAL = 9.0
"""The CVSS base score from which `latest` and ranges choose no affected version."""
BUILT_IN = "builtin"

CONDITIONS: dict[Needs, tuple[str, str]] = {
    "nothing": ("it is in every server", ""),
    "model": ("a model that others may have made is served", "the built-in model is served"),
    "media": ("the model takes images or video", "the model takes no images or video"),
    "audio": ("the model takes sound", "the model takes no sound"),
    "several-hosts": ("several hosts serve one model", "one host serves a model alone"),
    "unguarded-key": ("vLLM alone checks the API key", "a guard of Firstlight checks the API key before vLLM does"),
    "own-programs": ("your programs use torch", "vLLM alone uses torch here, and loads no such files"),
}
"""What each condition is called in texts: that it holds, and that it does not."""


@dataclass(frozen=True)
class Exposure:
    """What a host does, as far as a condition of an advisory asks."""

    serves_vllm: bool = True
    own_model: bool = False
    """Whether a model of the user is served, and not the built-in one."""
    inputs: tuple[Input, ...] = ()
    """What the model takes besides text."""
    architecture: str | None = None
    """The class of the user's model; None: unknown, so that it may be any."""
    hosts: int = 1
    """Hosts that serve one model together."""
    arguments: tuple[str, ...] = ()
    """Arguments of `vllm serve` by the settings and the model's family."""

    def missing(self, row: Advisory) -> str | None:
        """Return the condition of an advisory that does not hold, as text; None if the host is affected."""
        given = " ".join(self.arguments).replace("=", " ").lower()
        does: dict[Needs, bool] = {
            "nothing": True,
            "model": self.own_model,
            "media": "media" in self.inputs,
            "audio": "audio" in self.inputs,
            "several-hosts": self.hosts > 1,
            "unguarded-key": False,
            "own-programs": not self.serves_vllm,
        }
        if not does[row.needs]:
            return CONDITIONS[row.needs][1]
        if row.option is not None and row.option.lower() not in given:
            return f"`{row.option}` is not given"
        may_be = self.own_model and (self.architecture is None or re.search(row.architecture or "", self.architecture))
        return None if row.architecture is None or may_be else "the model is of another class"


def exposure_of(settings: Settings, stack: Mapping[str, Any] | None) -> Exposure:
    """Return what a host with a Stack (as JSON) does. Of a user's model that the Stack does not describe, everything is assumed."""
    stack = stack or {"vllm": {}}
    model, serving = stack.get("model") or {}, stack.get("serving") or {}
    own = settings.model != BUILT_IN and settings.serve
    return Exposure(
        serves_vllm=stack.get("vllm") is not None,
        own_model=own,
        inputs=tuple(model.get("inputs", ("media", "audio") if own else ())),
        architecture=model.get("architecture"),
        hosts=settings.span,
        arguments=(*settings.vllm_args, *(word for choice in serving.get("choices", ()) for word in choice["flags"])),
    )


def affects(row: Advisory, version: str) -> bool:
    """Return whether a version of its product is in the range of an advisory."""
    if row.product.startswith("nvidia-"):
        return numbers(row.since) <= numbers(version) < numbers(row.fixed)
    try:
        return Version(row.since) <= Version(version) < Version(row.fixed)
    except InvalidVersion:
        return False


@cache
def advisories_of(product: Product, version: str) -> tuple[Advisory, ...]:
    """Return the advisories about a version of a product, the most severe first, whether their conditions hold or not."""
    rows = (row for row in catalog().advisories if row.product == product and affects(row, version))
    return tuple(sorted(rows, key=lambda row: (-(row.severity or 0), row.id)))


def is_critical(row: Advisory) -> bool:
    return row.severity is not None and row.severity >= CRITICAL


def text_of(row: Advisory) -> str:
    """Return an advisory with its score: `CVE-2026-22778 (CVSS 9.8)`."""
    return f"{row.id} (CVSS {row.severity:g})" if row.severity is not None else row.id


def sentence_of(row: Advisory) -> str:
    """Return what an advisory lets an attacker do, for the middle of a sentence."""
    return row.allows[:1].lower() + row.allows[1:].rstrip(".")


def condition_of(row: Advisory) -> str:
    """Return the conditions of an advisory that hold, as text."""
    parts = [] if row.needs == "nothing" else [CONDITIONS[row.needs][0]]
    parts += [f"`{row.option}` is given"] if row.option else []
    return " and ".join(parts) or CONDITIONS["nothing"][0]
