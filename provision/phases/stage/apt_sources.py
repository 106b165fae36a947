"""The controller's own apt sources for its release, read from both formats. Sources of third parties are left out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path


def read_release(path: Path = Path("/etc/os-release")) -> dict[str, str]:
    """Return the keys of an os-release file; an empty dict when the file is absent."""
    if not path.exists():
        return {}
    pairs = (line.split("=", 1) for line in path.read_text(encoding="utf-8").splitlines() if "=" in line)
    return {key: value.strip("\"'") for key, value in pairs}


def release_sources(codename: str, etc_apt: Path = Path("/etc/apt")) -> str:
    """Return every binary source for a release or one of its pockets, as deb822 text.

    Args:
        codename: Code name of the release, such as `bookworm`; `bookworm-updates` is one of its pockets.
        etc_apt: Folder with `sources.list` and `sources.list.d`.
    """
    files = [etc_apt / "sources.list", *sorted((etc_apt / "sources.list.d").glob("*"))]
    stanzas = [stanza for path in files if path.is_file() for stanza in _stanzas(path)]
    return "\n\n".join(kept for stanza in stanzas if (kept := _of_release(stanza, codename))) + "\n"


def _stanzas(path: Path) -> Iterable[str]:
    text = "\n".join(
        line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")
    )
    if path.suffix == ".sources":
        return [stanza.strip() for stanza in re.split(r"\n\s*\n", text) if stanza.strip()]
    if path.suffix == ".list":
        return [stanza for line in text.splitlines() if (stanza := _deb822(line))]
    return []


def _deb822(line: str) -> str | None:
    found = re.match(r"deb\s+(?:\[([^\]]*)\]\s*)?(\S+)\s+(\S+)\s*(.*)", line.strip())
    if not found:
        return None
    options, uri, suite, components = found.groups()
    rows = ["Types: deb", f"URIs: {uri}", f"Suites: {suite}", f"Components: {components}"]
    names = {"signed-by": "Signed-By", "trusted": "Trusted"}
    for option in (options or "").split():
        key, _, value = option.partition("=")
        if key.lower() in names:
            rows.append(f"{names[key.lower()]}: {value}")
    return "\n".join(rows)


def _of_release(stanza: str, codename: str) -> str | None:
    def field(name: str) -> list[str]:
        found = re.search(rf"^{name}:\s*(.*)$", stanza, re.MULTILINE | re.IGNORECASE)
        return found[1].split() if found else []

    suites = [suite for suite in field("Suites") if re.fullmatch(rf"{re.escape(codename)}(-[a-z-]+)?/?", suite)]
    if not suites or "deb" not in field("Types") or [value.lower() for value in field("Enabled")] == ["no"]:
        return None
    stanza = re.sub(r"(?mi)^Suites:.*$", f"Suites: {' '.join(suites)}", stanza)
    # apt does not copy packages of a `file:` source into its archive; those of a `copy:` source it does.
    stanza = re.sub(r"(?mi)^URIs:.*$", lambda line: re.sub(r"(?<=\s)file:", "copy:", line[0]), stanza)
    # The architectures of the controller do not apply to the host.
    return re.sub(r"(?mi)^(Types:).*$", r"\1 deb", re.sub(r"(?mi)^Architectures:.*\n?", "", stanza)).strip()
