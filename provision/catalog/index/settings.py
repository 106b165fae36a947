"""The user's package client settings, as uv gets them.

uv reads its own variables and `uv.toml`, but no settings of pip, and most sites configure only pip. So pip's settings are translated,
each group unless uv itself is configured, in this precedence:

1. `UV_*` variables, and `uv.toml` of the user or the system;
2. `PIP_*` variables;
3. pip's configuration files: of the Python, of the user, of the system; in each, section `install` before `global`.

pip treats all its indexes as one and takes the best version of any. uv takes each package from the first index that has it, so an upload to
one index cannot replace a package of another; this stays. So the order matters: the main index comes first, then the extra indexes in
their written order. An extra index with few or old files never hides the main one; it only adds what the main index lacks.
"""

from __future__ import annotations

import configparser
import hashlib
import json
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote, urlsplit

from provision.core.errors import StageError
from provision.core.user_path import expand_user

if TYPE_CHECKING:  # the launcher loads this module before anything is installed
    from provision.core.models.inventory import Host
    from provision.core.models.stack import Stack

NO_INDEX = "UV_NO_INDEX"
"""Named as uv's own variables, but uv 0.13 has only the option: `run_uv` and the launcher give it."""
_UV_INDEX_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", NO_INDEX)
_UV_INDEX_KEYS = ("index", "index-url", "extra-index-url", "default-index", "no-index")
_HARMLESS = ("UV_CACHE", "UV_NO_PROGRESS", "UV_CONCURRENT", "UV_HTTP", "UV_LINK", "UV_SYSTEM_CERTS")
"""How the variables of uv begin that change no result."""
_ADDRESSES = ("index-url", "extra-index-url", "find-links", "proxy")
_CREDENTIALS = re.compile(r"(?<=://)[^/\s`'\"]+@")
_ACCESS = re.compile(r"UV_(INDEX_.+_(USERNAME|PASSWORD)|INSECURE_HOST|KEYRING_PROVIDER|TOOL_.+|PUBLISH_.+)")
"""Variables of uv by which files are reached, or that other commands of uv read."""


class BundledContent(Protocol):
    """A bundle that replaces every index."""

    @property
    def name(self) -> str:
        """The bundle's file name."""

    def difference(self, stack: Stack) -> str:
        """Describe the difference between a Stack and the nearest one of the bundle."""

    def accept(self, host: Host, logs: Path) -> None:
        """Let a host have an environment of the bundle; `logs` is the folder of the runs. Raises BundleError where it may not."""


@dataclass(frozen=True)
class ClientSettings:
    """Settings of the user's package client. Where uv itself is configured, the index fields are empty and uv's settings apply."""

    index: str | None = None
    """The main index; None for uv's default."""
    extra_indexes: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    no_index: bool = False
    certificate: str | None = None
    proxy: str | None = None
    insecure_hosts: tuple[str, ...] = ()
    uv: tuple[tuple[str, str], ...] = ()
    """The user's UV_* variables that change results."""
    uv_files: tuple[str, ...] = ()
    """Text of the uv.toml files in use."""
    sealed: bool = False
    """Whether results are for a bundle or from one, so that they must be found with any settings."""
    bundled: BundledContent | None = None
    """The bundle that replaces all indexes."""

    def digest(self) -> str:
        """Return a digest that changes with each setting that may change results, except for bundles. It reveals no secret.

        Logins, proxies and certificates are left out: a new token must not install newer packages.
        """
        if self.sealed:
            return "sealed"
        uv = tuple((name, value) for name, value in self.uv if not _ACCESS.fullmatch(name))
        kept = replace(self, certificate=None, proxy=None, insecure_hosts=(), uv=uv)
        return hashlib.sha256(without_credentials(json.dumps(asdict(kept), sort_keys=True)).encode()).hexdigest()


def without_credentials(text: str) -> str:
    """Return the text with user names and passwords removed from addresses."""
    return _CREDENTIALS.sub("***@", text)


def read_settings(
    environ: Mapping[str, str] | None = None,
    *,
    pip_files: Iterable[Path] | None = None,
    uv_files: Iterable[Path] | None = None,
) -> ClientSettings:
    """Read the settings of this user. Files of pip that cannot be read are ignored.

    Raises:
        StageError: An address is invalid.
    """
    environ = os.environ if environ is None else environ
    pip = _pip_values(environ, _pip_files(environ) if pip_files is None else pip_files)
    for key in _ADDRESSES:
        _require_addresses(key, pip.get(key, ""))
    # what is wrong with one, uv itself says
    readable = (path for path in (_uv_files(environ) if uv_files is None else uv_files) if os.access(path, os.R_OK))
    uv_texts = tuple(path.read_text(encoding="utf-8", errors="replace") for path in readable if path.is_file())
    uv_keys = {key for text in uv_texts for key in _toml_keys(text)}
    uv_owns_indexes = any(environ.get(name) for name in _UV_INDEX_VARIABLES) or bool(uv_keys & set(_UV_INDEX_KEYS))
    uv_owns_links = bool(environ.get("UV_FIND_LINKS")) or "find-links" in uv_keys
    proxy = pip.get("proxy")
    if proxy and "://" not in proxy:
        proxy = f"http://{proxy}"  # pip accepts `host:port`
    has_proxy = any(environ.get(name) for name in ("ALL_PROXY", "HTTPS_PROXY", "https_proxy", "all_proxy"))
    return ClientSettings(
        index=None if uv_owns_indexes else pip.get("index-url"),
        extra_indexes=() if uv_owns_indexes else tuple(pip.get("extra-index-url", "").split()),
        find_links=tuple(_absolute(location) for location in pip.get("find-links", "").split() if not uv_owns_links),
        no_index=not uv_owns_indexes and pip.get("no-index", "").lower() in {"1", "true", "yes", "on"},
        certificate=environ.get("SSL_CERT_FILE") or pip.get("cert"),
        proxy=None if has_proxy else proxy,
        insecure_hosts=() if environ.get("UV_INSECURE_HOST") else tuple(pip.get("trusted-host", "").split()),
        uv=tuple(
            sorted(pair for pair in environ.items() if pair[0].startswith("UV_") and not pair[0].startswith(_HARMLESS))
        ),
        uv_files=uv_texts,
    )


def network_variables(settings: ClientSettings) -> dict[str, str]:
    """Return the proxy and certificate variables that equal pip's settings."""
    variables = uv_variables(settings, default_index="")
    return {name: value for name, value in variables.items() if not name.startswith("UV_")}


def uv_variables(settings: ClientSettings, *, default_index: str) -> dict[str, str]:
    """Return the UV_*, proxy and certificate variables that equal pip's settings.

    Args:
        default_index: The index that uv uses without settings.
    """
    variables: dict[str, str] = {}
    if settings.index or settings.extra_indexes:
        # uv queries its default index last, so the last of pip's indexes becomes the default and the main one can be first.
        ordered = [settings.index or default_index, *settings.extra_indexes]
        variables["UV_DEFAULT_INDEX"] = ordered[-1]
        if ordered[:-1]:
            variables["UV_INDEX"] = " ".join(ordered[:-1])
    if settings.find_links:
        variables["UV_FIND_LINKS"] = ",".join(settings.find_links)
    if settings.no_index:
        variables[NO_INDEX] = "1"
    if settings.certificate:
        variables["SSL_CERT_FILE"] = settings.certificate
    if settings.proxy:
        variables["ALL_PROXY"] = variables["HTTPS_PROXY"] = variables["HTTP_PROXY"] = settings.proxy
    if settings.insecure_hosts:
        variables["UV_INSECURE_HOST"] = " ".join(settings.insecure_hosts)
    return variables


def with_logins(indexes: Iterable[str], settings: ClientSettings) -> list[str]:
    """Return indexes of uv, those with a name with the login of its variables: UV_INDEX_MY_CORP_USERNAME, ..._PASSWORD of `my-corp`."""
    variables = dict(settings.uv)
    rows = [row for text in settings.uv_files for row in tomllib.loads(text).get("index", ())]
    names = {row["url"]: row.get("name", "") for row in rows}
    listed = " ".join(variables.get(name, "") for name in ("UV_DEFAULT_INDEX", "UV_INDEX"))
    names |= {url: name for name, url in re.findall(r"(?:^|\s)([\w.-]+)=(\S+)", listed)}
    found = []
    for index in indexes:
        own = "UV_INDEX_" + re.sub(r"[^A-Z0-9]", "_", names.get(index, "").upper())
        login = ":".join(quote(variables.get(own + part, ""), safe="") for part in ("_USERNAME", "_PASSWORD"))
        found.append(index if login == ":" else re.sub(r"://([^/]*@)?", f"://{login}@", index, count=1))
    return found


def _require_addresses(key: str, text: str) -> None:
    for address in text.split():
        try:
            parts = urlsplit(address)
            problem = None if parts.port is None or parts.hostname else "it has no host"
        except ValueError as error:
            problem = str(error)
        if problem or ("://" in address and not (parts.hostname or parts.scheme == "file")):
            raise StageError(
                f"pip's setting `{key}` has the invalid address `{without_credentials(address)}`: {problem or 'it has no host'}",
                hint=f"correct it; see `pip config list` and PIP_{key.upper().replace('-', '_')}",
            )


def _absolute(location: str) -> str:
    """Make a folder absolute: it is relative to the working directory of the user, and uv runs elsewhere."""
    return location if "://" in location else str(expand_user(location).absolute())


def _pip_values(environ: Mapping[str, str], files: Iterable[Path]) -> dict[str, str]:
    sections: dict[str, dict[str, str]] = {"global": {}, "install": {}}
    for path in files:
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")  # one that cannot be opened is passed over
        except (configparser.Error, UnicodeDecodeError):
            continue
        for section, values in sections.items():
            if parser.has_section(section):
                values.update({key.replace("_", "-"): value for key, value in parser.items(section)})
    variables = {
        name.removeprefix("PIP_").lower().replace("_", "-"): value
        for name, value in environ.items()
        if name.startswith("PIP_") and value
    }
    return {**sections["global"], **sections["install"], **variables}


def _pip_files(environ: Mapping[str, str]) -> list[Path]:
    """Return the configuration files of pip, the one with the highest precedence last."""
    named = environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return []
    home = Path(environ.get("HOME", "~")).expanduser()
    prefixes = dict.fromkeys((sys.base_prefix, environ.get("VIRTUAL_ENV"), sys.prefix))
    return [
        *(Path(folder) / "pip/pip.conf" for folder in reversed(environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":"))),
        Path("/etc/pip.conf"),
        home / ".pip/pip.conf",
        Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip/pip.conf",
        *(Path(prefix) / "pip.conf" for prefix in prefixes if prefix),
        *([Path(named)] if named else []),
    ]


def _uv_files(environ: Mapping[str, str]) -> list[Path]:
    if named := environ.get("UV_CONFIG_FILE"):
        return [Path(named)]
    if environ.get("UV_NO_CONFIG"):
        return []
    home = Path(environ.get("HOME", "~")).expanduser()
    return [Path("/etc/uv/uv.toml"), Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "uv/uv.toml"]


def _toml_keys(text: str) -> set[str]:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return set()
    pip = table.get("pip")
    return {*table, *(pip if isinstance(pip, dict) else ())}
