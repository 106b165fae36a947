"""Masking of secrets, by name or by form, before text is printed, saved or sent. The patterns are in `verify/data/secrets.toml`."""

import re

from verify.tables import table

MASK = "[hidden]"

_FORMS = table("secrets")
_TRACES: list[str] = _FORMS["traces"]
_TOKEN = re.compile(rf"(?<![A-Za-z0-9_])(?:{'|'.join(_FORMS['tokens'])})")
_HASH = re.compile("|".join(_FORMS["hashes"]))
_BLOCKS = [re.compile(pattern) for pattern in _FORMS["blocks"]]
_WORD = re.compile(r"(?<![A-Za-z0-9_])[A-Za-z0-9][\w.=/+:~-]{11,}")
_BY_NAME = [
    re.compile(re.sub(r"<([A-Z]+)>", lambda part: _FORMS["parts"][part[1]], pattern)) for pattern in _FORMS["by_name"]
]


def _hidden(found: re.Match[str]) -> str:
    """Return the kept part and the mask; quotes around a value stay, so that JSON and YAML remain valid."""
    quote = re.match(r"\\*[\"']", found[2])
    return f"{found[1]}{quote[0]}{MASK}{quote[0]}" if quote and found[2].endswith(quote[0]) else f"{found[1]}{MASK}"


def masked(text: str) -> str:
    """Replace everything that looks like a secret by `[hidden]`."""
    for pattern in _BLOCKS:
        text = pattern.sub(_hidden, text)
    return "".join(map(_line, text.splitlines(keepends=True)))


def _line(line: str) -> str:
    small = line.lower()
    if any(trace in small for trace in _TRACES):
        for pattern in _BY_NAME:
            line = pattern.sub(_hidden, line)
    return _WORD.sub(lambda found: _TOKEN.sub(MASK, found[0]), _HASH.sub(MASK, line))
