"""Where files are that are no modules: those of the product, and those of its user.

In a checkout, playbooks, inventories and locks lie beside the packages, and records of runs in logs/. A product that was installed as a
Python package has the former inside the package `provision`, and writes the latter to the user's state folder.
"""

import os
import re
from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

_PACKAGE = Path(str(files("provision")))
_INSTALLED = _PACKAGE / "_files"
"""Made by the build of the wheel: `sources` and `force-include` in pyproject.toml."""
IS_INSTALLED = _INSTALLED.is_dir()
_PACKAGES = frozenset({"provision", "verify"})
_COMMAND = re.compile(r"(?<![\w./-])\./firstlight(?![\w./-])")
_PAGE = re.compile(r"(?<![\w./-])docs/(?=[\w/-]+\.md)")


def product_path(name: str) -> Path:
    """Return the path of a file or folder of the product, by its path in a checkout, such as `playbooks` or `requirements/run.txt`."""
    if name in _PACKAGES:
        return Path(str(files(name)))
    return (_INSTALLED if IS_INSTALLED else _PACKAGE.parent) / name


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the controller's cache: FIRSTLIGHT_CACHE, else XDG_CACHE_HOME/firstlight, else ~/.cache/firstlight."""
    if named := environ.get("FIRSTLIGHT_CACHE"):
        return Path(named).expanduser().absolute()
    return Path(environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "firstlight"


def tools_folder(cache: Path) -> Path:
    """Return the folder in the cache where programs for hosts are built.

    Each checkout has its own: two of different states may run at the same time.
    """
    return cache / "tools" / sha256(str(product_path("verify")).encode()).hexdigest()[:12]


def config_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of the user's keys, tables and inventory: XDG_CONFIG_HOME/firstlight, else ~/.config/firstlight."""
    return Path(environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "firstlight"


def logs_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where records of runs are: FIRSTLIGHT_LOGS, else logs/ of the checkout.

    An installed product has no checkout: XDG_STATE_HOME/firstlight/logs, else ~/.local/state/firstlight/logs.
    """
    if named := environ.get("FIRSTLIGHT_LOGS"):
        return Path(named).expanduser().absolute()
    if not IS_INSTALLED:
        return product_path("logs")
    return Path(environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "firstlight" / "logs"


def default_inventory(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the inventory of commands that name none: this machine.

    An installed product takes `inventory` in the user's configuration folder instead, where that exists.
    """
    own = config_folder(environ) / "inventory"
    return own if IS_INSTALLED and own.exists() else product_path("inventory/local")


def as_typed(text: str) -> str:
    """Return a text with its commands as a person types them, and with its pages as a person opens them.

    In a checkout that is the text. Where the product was installed, `firstlight` is a program in the PATH, and pages of the documentation are
    inside the package.
    """
    if not IS_INSTALLED:
        return text
    return _PAGE.sub(lambda _: f"{product_path('docs')}/", _COMMAND.sub("firstlight", text))
