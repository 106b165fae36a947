"""OS packages for hosts whose package sources do not answer, fetched by the controller's apt from the host's package status.

apt uses the controller's own sources, keys and preferences. Its state is in a temporary folder, so nothing changes on this machine. It
checks signatures and hashes as always, and fetches the whole closure that the host lacks.
"""

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
ETC_APT = Path("/etc/apt")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""Machine names of `uname -m` and dpkg's names for them."""
_HINT = "install these packages on the host by hand, or let it reach its own package sources"


def fetch_debs(
    packages: Iterable[str], dpkg_status: str, host: OperatingSystem, *, store: Store, bundled: bool = False
) -> list[StagedFile]:
    """Fetch packages with all dependencies that the host lacks, in the order of their file names.

    Args:
        dpkg_status: Text of the host's /var/lib/dpkg/status.
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
            hint="install these packages on the host by hand; a bundle that is created with -i and this host has those of the environment, and none of gateways and monitoring",
        )
    if refused := why_not_fetched(names, host):
        raise StageError(refused, hint=_HINT)
    with scratch_folder() as folder:
        archives = _download(folder, dpkg_status, architecture, names)
        # apt writes the colon of an epoch as %3a; the name on a host has no escapes.
        staged = [store.staged(store.add(path, name=path.name.replace("%3a", "+")), "deb") for path in archives]
    store.put("debs", key, {"files": [{"sha256": file.sha256, "name": file.name} for file in staged]})
    return staged


def why_not_fetched(packages: Iterable[str], host: OperatingSystem) -> str | None:
    """Return why this machine cannot fetch packages for a host, as far as that is known without a network; None where it can."""
    wanted = ", ".join(sorted(set(packages)))
    if not shutil.which("apt-get"):
        return f"the host needs {wanted}, and this machine has no apt to fetch them"
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    if (release.get("ID"), release.get("VERSION_ID")) != (host.id, host.version_id):
        sources = f"{release.get('ID')} {release.get('VERSION_ID')}"
        return f"the host needs {wanted} for {host.id} {host.version_id}, and this machine has package sources of {sources}"
    return None


def _download(folder: Path, status: str, architecture: str, names: list[str]) -> list[Path]:
    """Fetch packages with apt-get, whose state and cache are in a temporary folder; return their files."""
    archives = folder / "cache" / "archives"
    for path in (folder / "state/lists/partial", archives / "partial"):
        path.mkdir(parents=True)
    (folder / "status").write_text(status, encoding="utf-8")
    settings = {
        "Dir::Etc": ETC_APT,
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "status",
        "Dir::State::extended_states": folder / "extended_states",
        "Dir::Cache": folder / "cache",
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
