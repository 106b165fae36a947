"""Properties of an extension's C++ that mangled symbols show: torch's names, and the std::string ABI."""

import re
from collections.abc import Iterable

_TORCH = re.compile(r"3c10|2at|5torch|6caffe2")
"""Namespaces of torch in mangled symbols: each name after its length."""
_NEW_STRING, _OLD_STRING = "__cxx11", "Ss"
"""std::string in a mangled symbol (Itanium C++ ABI 5.1.8), with the C++11 ABI and without it."""
_TOKEN = re.compile(r"S[0-9A-Z]*_|T\d*_|L[a-z]n?\d+E|(\d+)|.", re.DOTALL)


def is_of_torch(symbol: str) -> bool:
    """Return whether a symbol names something of torch."""
    return _TORCH.search(symbol) is not None


def text_symbols(symbols: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the sorted symbols that pass text with the C++11 ABI, and those that pass it without."""
    found = sorted(symbols)
    old = [symbol for symbol in found if _OLD_STRING in _without_names(symbol)]
    return [symbol for symbol in found if _NEW_STRING in symbol], old


def _without_names(symbol: str) -> str:
    """Remove the names from a mangled symbol, which may contain anything; each follows its length."""
    kept, at = "", len("_Z")
    while at < len(symbol) and (token := _TOKEN.match(symbol, at)):
        at = token.end() + int(token[1] or 0)
        kept += token[0] if len(token[0]) == 1 and not token[1] else " "
    return kept
