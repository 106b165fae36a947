"""Shell assignments for the launcher: the user's pip settings as uv's environment variables.

Nothing is installed yet, so provision/catalog/index/settings.py is loaded by its path; it needs only the standard library and
two modules of provision/core, errors.py and user_path.py. In addition, missing local folders are omitted (pip ignores them,
uv would stop), and a version may come from any index (the hashes in the lock reject other files).
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
READER = ROOT / "provision/catalog/index/settings.py"


def present(locations: Iterable[str]) -> tuple[str, ...]:
    """Return the locations without local ones that do not exist."""
    return tuple(location for location in locations if is_there(location))


def is_there(location: str) -> bool:
    """Return whether a local location exists; True for addresses."""
    parts = urlsplit(location)
    if parts.scheme in ("http", "https"):
        return True
    path = unquote(parts.path) if parts.scheme == "file" else location
    return Path(path).expanduser().exists()


def variables() -> dict[str, str]:
    """Return the variables that give uv the package sources of pip."""
    spec = importlib.util.spec_from_file_location("user_index", READER)
    if spec is None or spec.loader is None:
        return {}
    reader = importlib.util.module_from_spec(spec)
    sys.path.append(str(ROOT))
    sys.modules[spec.name] = reader
    spec.loader.exec_module(reader)
    try:
        settings = reader.read_settings()
    except reader.StageError as error:
        sys.stderr.write(f"{error}; continuing without your pip settings\n")
        return {}
    extra = present(settings.extra_indexes)
    settings = replace(settings, extra_indexes=(), find_links=present(settings.find_links))
    found: dict[str, str] = reader.uv_variables(settings, default_index="")
    if extra:
        found["UV_INDEX"] = " ".join(extra)
        found["UV_INDEX_STRATEGY"] = os.environ.get("UV_INDEX_STRATEGY", "unsafe-best-match")
    return found


if __name__ == "__main__":
    for name, value in variables().items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")
