"""Bare roots that are not booted and whose package manager has a vendor's repository; the role's modules run in them."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from provision.catalog import catalog
from provision.catalog.packages import packages_of_component, repository_of_component
from tests.fleet.fixtures import require_hosts
from tests.fleet.layers import root_with
from tests.fleet.machine import Machine
from tests.fleet.vendor import NEW, PLACE, Signer
from tests.install.modules import copy_modules, documentation, run_module
from tests.install.scripts import script_text

ENVIRONMENT = ("PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8")
MODULES = "opt/modules"
"""The folder of the product's modules in a root."""
LEFT = "firstlight-left: "
KEY = "/usr/share/keyrings/firstlight-nvidia-cuda.asc"
SOURCE = "etc/apt/sources.list.d/firstlight-nvidia-cuda.sources"
PIN = "etc/apt/preferences.d/firstlight-nvidia-cuda"


class Root:
    """A root, and commands in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
        environment["DEBIAN_FRONTEND"] = "noninteractive"
        words = ("chroot", str(self.path), *words)
        return subprocess.run(words, input=stdin, env=environment, capture_output=True, text=True, check=False)

    def sh(self, script: str) -> str:
        """Return the output of a script, which must succeed."""
        done = self.run("sh", "-ec", script)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def uninstall(self, *, drivers: bool = False) -> list[str]:
        """Run the script of the role that uninstalls, for an installation without files; return what it says that stays."""
        return [line.removeprefix(LEFT) for line in self.uninstalled(drivers=drivers) if line.startswith(LEFT)]

    def uninstalled(self, *, drivers: bool, succeeds: bool = True) -> list[str]:
        """Do the same, and return all that it says."""
        self.sh("mkdir -p /opt/firstlight && echo firstlight 1 >/opt/firstlight/.firstlight")
        variables = {"PREFIX": "/opt/firstlight", "INCOMING": "", "REMOVE_PACKAGES": "0", "CHECK": "0"}
        variables["REMOVE_DRIVERS"] = str(int(drivers))
        given = [f"FIRSTLIGHT_{name}={value}" for name, value in variables.items()]
        script = script_text("uninstall/files/remove.sh")
        alone = ("unshare", "--mount", "--pid", "--fork", f"--mount-proc={self.path}/proc")
        words = (*alone, "env", "-i", *ENVIRONMENT, *given, "chroot", str(self.path), "sh", "-c", script)
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) is succeeds, done.stdout + done.stderr
        return done.stdout.splitlines()

    def module(self, name: str, mode: str, what: dict[str, Any]) -> tuple[int, str]:
        """Run one of the role's modules; return 0, or 1 if it failed, and its report with one item per line. Mode `look` is check mode.

        The module gets what it has options for, and all of it as its option `part`.
        """
        folder = self.path / MODULES
        if not folder.exists():
            copy_modules(folder)
        options, what = documentation(name)["options"], {**what, "part": what}
        result = run_module(
            name,
            check=mode == "look",
            program=("env", "-i", f"PYTHONPATH=/{MODULES}", *ENVIRONMENT, "chroot", str(self.path), "python3"),
            playbooks=Path("/", MODULES),
            **{option: value for option, value in what.items() if option in options},
        )
        lines = [f"changed: {text}" for text in (*result.get("changes", ()), *result.get("paths", ()))]
        lines += [f"note: {text}" for text in result.get("notes", ())]
        lines += [f"version: {result['version']}"] if "version" in result else []
        lines += [f"restart: {result['restart']}"] if result.get("restart") else []
        if result.get("failed"):
            lines += [f"error: {result['msg']}", f"hint: {result.get('hint')}"]
        elif "version" not in result:
            assert result["changed"] is any(line.startswith("changed:") for line in lines), result
        return int(bool(result.get("failed"))), "".join(f"{line}\n" for line in lines)


class AptRoot(Root):
    """A Debian whose only source is the vendor's repository, as the role adds it."""

    def pin(self, version: str) -> None:
        globs = " ".join(catalog().package_families["nvidia-driver"].packages)
        (self.path / PIN).write_text(f"Package: {globs}\nPin: version {version}-*\nPin-Priority: 1001\n")

    def states(self) -> dict[str, tuple[str, str]]:
        """Return the version and the state of the driver's installed packages."""
        lines = self.run("dpkg-query", "-W", "-f", "${Package} ${Version} ${db:Status-Abbrev}\n").stdout.splitlines()
        rows = [line.split() for line in lines]
        return {
            name: (version.partition("-")[0], state)
            for name, version, state in rows
            if ("nvidia" in name or "cuda" in name) and state[1] == "i"
        }


def wanted(
    flavour: str = "open", version: str | None = NEW, *, system: tuple[str, str] = ("debian", "12"), **values: Any
) -> dict[str, Any]:
    """Return the parameters of the role's modules for a driver; `system` is a distribution and its release."""
    family = catalog().package_families["nvidia-driver"]
    component = catalog().package_components[f"driver-{flavour}"]
    repository = repository_of_component(
        component.name, os_id=system[0], version_id=system[1], machine="x86_64", mirror=f"file://{PLACE}", key="/key"
    )
    known = {
        "packages": list(packages_of_component(component.name, branch=(version or "").partition(".")[0])),
        "version": version,
        "family": {"packages": list(family.packages), "version": family.version, "apart": []},
        "instead_of": list(component.instead_of),
        "headers": True,
        "before": [],
        "along": [],
        "at_least": None,
        "below": None,
        "repository": asdict(repository),
        "lock_timeout_s": 60,
    }
    return {**known, **values}


def succeeded(ended: tuple[int, str]) -> str:
    """Return the report of a module, which must have succeeded."""
    status, report = ended
    assert status == 0, report
    return report


@contextmanager
def bare(folder: Path, packages: Sequence[str] = ()) -> Iterator[Path]:
    """Make a bare root in a folder, or one with more packages; it is removed at the end."""
    require_hosts()
    machine = Machine("packages", folder / "root")
    machine.mount(*root_with(packages))
    try:
        yield machine.root
    finally:
        machine.remove()


@contextmanager
def apt_root(folder: Path, by: Signer, *, path: str, os_release: str | None = None) -> Iterator[AptRoot]:
    """Make a root with the repository and the vendor's key of `mirror`, at PLACE/`path`; `os_release` names another Debian."""
    with bare(folder) as root:
        shutil.copytree(by.key.parent / "mirror", root / PLACE.lstrip("/"))
        shutil.copy(by.key, root / KEY.lstrip("/"))
        if os_release is not None:
            (root / "etc/os-release").unlink()
            (root / "etc/os-release").write_text(os_release)
        (root / "etc/apt/sources.list").write_text("")
        (root / SOURCE).write_text(f"Types: deb\nURIs: file://{PLACE}/{path}/\nSuites: /\nSigned-By: {KEY}\n")
        yield AptRoot(root)
