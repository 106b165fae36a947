"""OS packages for hosts whose package sources do not answer, fetched by the controller's apt from the host's package status.

apt runs with its own state and changes nothing on this machine. It checks signatures and hashes as always, and fetches the whole
closure that the host lacks.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from provision.core.errors import StageError
from provision.core.models.facts import OperatingSystem
from provision.core.models.staged import StagedFile
from provision.core.process import run_program
from provision.core.scratch import scratch_folder
from provision.phases.stage.wheelhouse import Store

TIMEOUT_S = 600.0
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""Machine names of `uname -m` and dpkg's names for them."""
_HINT = "install these packages on the host by hand, or let it reach its own package sources"


def fetch_debs(
    packages: Iterable[str],
    dpkg_status: str,
    host: OperatingSystem,
    *,
    store: Store,
    etc_apt: Path = Path("/etc/apt"),
    controller: dict[str, str] | None = None,
    bundled: bool = False,
) -> list[StagedFile]:
    """Fetch packages with all dependencies that the host lacks, in the order of their file names.

    Args:
        dpkg_status: Text of the host's /var/lib/dpkg/status.
        controller: Keys of this machine's os-release; None to read the file.
        bundled: Whether to take only what a bundle has: the packages that were fetched for this host when the bundle was made.

    Raises:
        StageError: This machine has no apt or is of another release than the host, or apt refuses.
    """
    names = sorted(set(packages))
    architecture = _ARCHITECTURES.get(host.machine or "")
    if not names:
        return []
    if architecture is None:
        raise StageError(f"no OS packages can be fetched for machine `{host.machine}`", hint=_HINT)
    # Of the host's status only its packages matter.
    has = re.findall(r"^(?:Package|Status|Version|Architecture): .*$", dpkg_status, re.MULTILINE)
    parts = [host.id or "", host.version_id or "", architecture, *names, "", *has]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
    if known := store.get("debs", key):
        paths = [store.find(row["sha256"], row["name"]) for row in known["files"]]
        if all(paths):
            return [store.staged(path, "deb") for path in paths if path]
    if bundled:
        raise StageError(
            f"the bundle has no {', '.join(names)} for host `{host.hostname}` as it is now",
            hint="install these packages on the host by hand, or create the bundle with -i and this host in the inventory",
        )
    sources = _sources(names, host, _own_release() if controller is None else controller, etc_apt)
    with scratch_folder() as folder:
        archives = _download(folder, sources, dpkg_status, architecture, names)
        # apt writes the colon of an epoch as %3a; the name on a host has no escapes.
        staged = [store.staged(store.add(path, name=path.name.replace("%3a", "+")), "deb") for path in archives]
    store.put("debs", key, {"files": [{"sha256": file.sha256, "name": file.name} for file in staged]})
    return staged


def why_not_fetched(packages: Iterable[str], host: OperatingSystem) -> str | None:
    """Return why this machine cannot fetch packages for a host, as far as that is known without a network; None where it can."""
    try:
        _sources(sorted(set(packages)), host, _own_release(), Path("/etc/apt"))
    except StageError as error:
        return error.text
    return None


def _own_release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def _sources(names: list[str], host: OperatingSystem, controller: dict[str, str], etc_apt: Path) -> str:
    wanted = ", ".join(names)
    if not shutil.which("apt-get"):
        raise StageError(f"the host needs {wanted}, and this machine has no apt to fetch them", hint=_HINT)
    here, there = (controller.get("ID"), controller.get("VERSION_ID")), (host.id, host.version_id)
    codename = controller.get("VERSION_CODENAME", "")
    if here != there or not codename:
        raise StageError(
            f"the host needs {wanted} for {there[0]} {there[1]}, and this machine has package sources of {here[0]} {here[1]}",
            hint=_HINT,
        )
    sources = release_sources(codename, etc_apt)
    if not sources.strip():
        raise StageError(f"the host needs {wanted}, and `{etc_apt}` has no source for {codename}", hint=_HINT)
    return sources


def _download(folder: Path, sources: str, status: str, architecture: str, names: list[str]) -> list[Path]:
    """Fetch packages with apt-get, whose state, cache and sources are in a temporary folder; return their files."""
    archives, parts = folder / "cache" / "archives", folder / "sources"
    for path in (folder / "state/lists/partial", archives / "partial", parts):
        path.mkdir(parents=True)
    (folder / "status").write_text(status, encoding="utf-8")
    (parts / "host.sources").write_text(sources, encoding="utf-8")
    settings = {
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "status",
        "Dir::State::extended_states": folder / "extended_states",
        "Dir::Cache": folder / "cache",
        "Dir::Etc::sourcelist": os.devnull,
        "Dir::Etc::sourceparts": parts,
        "Dir::Etc::preferences": os.devnull,
        "Dir::Etc::preferencesparts": os.devnull,
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "root",
        "APT::Get::AllowUnauthenticated": "false",
        "APT::Install-Recommends": "false",
        "Acquire::Retries": "2",
        "Acquire::http::Timeout": "15",
        "Acquire::https::Timeout": "15",
        "Acquire::Languages": "none",
        "Debug::NoLocking": "true",
    }
    options = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
    _run_apt("the package lists", [*options, "update", "--error-on=any"])
    _run_apt(", ".join(names), [*options, "install", "--yes", "--download-only", "--no-remove", *names])
    return sorted(archives.glob("*.deb"))


def _run_apt(what: str, arguments: list[str]) -> None:
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    timeout_error = StageError(f"apt did not fetch {what} within {TIMEOUT_S:.0f} s", hint=_HINT)
    done = run_program(["apt-get", "-qq", *arguments], timeout_error, timeout_s=TIMEOUT_S, env=environ)
    if done.returncode:
        lines = done.stderr.splitlines()
        errors = [line[2:].strip() for line in lines if line.startswith("E:")] or lines[-1:]
        raise StageError(f"apt could not fetch {what}: {'; '.join(errors[:3])}", hint=_HINT)


def release_sources(codename: str, etc_apt: Path = Path("/etc/apt")) -> str:
    """Return every binary source for a release (`bookworm`) or a pocket of it (`bookworm-updates`), as deb822 text."""
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
