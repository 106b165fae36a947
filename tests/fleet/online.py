"""An online test host reaches package registries as this machine does, with its resolver, sources, certificates and settings."""

import contextlib
import os
import re
import shutil
import sys
from pathlib import Path

from tests.fleet.commands import command

_PIP_FILES = (
    Path("/etc/pip.conf"),
    Path("/etc/xdg/pip/pip.conf"),
    Path.home() / ".config/pip/pip.conf",
    Path.home() / ".pip/pip.conf",
)
_ENVIRONMENT = re.compile(r"^(PIP_|UV_|SSL_CERT|REQUESTS_CA|CURL_CA)")


def connect_to_registries(root: Path) -> list[str]:
    """Copy this machine's settings into a root; returns options for nspawn: the folders that those settings name, read-only."""
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    shutil.copyfile("/etc/resolv.conf", root / "etc/resolv.conf")
    (root / "etc/apt/sources.list").unlink(missing_ok=True)
    for source in ("sources.list", "sources.list.d", "apt.conf.d", "auth.conf.d"):
        own = Path("/etc/apt", source)
        if own.is_dir():
            shutil.copytree(own, root / "etc/apt" / source, dirs_exist_ok=True)
        elif own.exists():
            shutil.copyfile(own, root / "etc/apt" / source)
    for settings in _PIP_FILES:
        if settings.is_file():
            shutil.copyfile(settings, root / "etc/pip.conf")
    variables = {name: value for name, value in os.environ.items() if _ENVIRONMENT.match(name)}
    with (root / "etc/environment").open("a") as file:
        file.writelines(f"{name}={value}\n" for name, value in variables.items())
    named = [
        "/etc/ssl/certs",
        "/usr/share/keyrings",
        "/usr/local/share/ca-certificates",
        *variables.values(),
        *_pip_folders(),
    ]
    return [f"--bind-ro={path}" for path in dict.fromkeys(named) if path.startswith("/") and Path(path).exists()]


def _pip_folders() -> list[str]:
    """Folders on this machine that its pip settings name."""
    listed = ""
    for pip in ([sys.executable, "-m", "pip"], ["pip"]):
        with contextlib.suppress(RuntimeError, FileNotFoundError):
            listed = command(*pip, "config", "list")
            break
    return [
        path.removesuffix("/simple")
        for path in re.findall(r"(?:file://)?(/[^\s'\\]+)", listed)
        if not path.startswith("//")
    ]
