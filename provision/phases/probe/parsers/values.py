"""Parsers of single values in untrusted text. They return None instead of raising an exception."""

import json
import re
from typing import Any

from provision.core.folders import product_path
from provision.core.json_text import parse

KINDS = product_path("provision") / "phases/probe/kinds.toml"
"""What a host is, by the words that it shows."""
YES_NO = {"yes": True, "no": False}
_UNITS = {"B": 1, "KB": 1 << 10, "KIB": 1 << 10, "MB": 1 << 20, "MIB": 1 << 20, "GB": 1 << 30, "GIB": 1 << 30}
_PCI = re.compile(r"^(?:([0-9a-fA-F]{4,8}):)?([0-9a-fA-F]{2}):([0-9a-fA-F]{2})\.([0-7])$")


def integer(text: str | None) -> int | None:
    """Return a non-negative decimal number below 2**63."""
    if text is None or not re.fullmatch(r"[0-9]{1,19}", text.strip()):
        return None
    value = int(text.strip())
    return value if value < 1 << 63 else None


def size(text: str | None) -> int | None:
    """Return the bytes of `81559 MiB` or `196592 MB`: nvidia-smi and amd-smi both mean powers of two."""
    match = re.fullmatch(r"([0-9]{1,15}) ?([KMG]?i?B)", (text or "").strip(), re.IGNORECASE)
    return int(match[1]) * _UNITS[match[2].upper()] if match else None


def version(text: str | None) -> str | None:
    """Return the first dotted number in a text."""
    match = re.search(r"(?<![\w.])[0-9]{1,9}(?:\.[0-9]{1,9})+", text or "")
    return match[0] if match else None


def pci_address(text: str | None) -> str | None:
    """Return a PCI address in the form `0000:01:00.0` (input may be `00000000:01:00.0`, `01:00.0` or upper case)."""
    match = _PCI.fullmatch((text or "").strip())
    if not match:
        return None
    domain = int(match[1] or "0", 16)
    return f"{domain:04x}:{match[2]}:{match[3]}.{match[4]}".lower()


def known(text: str | None) -> str | None:
    """Return the text; None for the texts by which tools report that there is no value."""
    stripped = (text or "").strip()
    return None if stripped.upper() in {"", "N/A", "[N/A]", "NONE", "NOT AVAILABLE"} else stripped


def json_object(text: str) -> dict[str, Any] | None:
    """Return a JSON object of limited depth and encodable text, or None."""
    try:
        value = parse(text)
        json.dumps(value, allow_nan=False)  # an infinite number could not be written again
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
