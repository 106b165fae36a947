"""`./firstlight test`: runs pytest with the given arguments; tests/levels.py says what runs without any.

Tests run in several processes (tests/lanes.py says which run together); `-n 0` runs all in one.
Before other runs than the quick one, as root on Debian or Ubuntu, missing OS packages are installed; elsewhere the tests that need them are skipped.
Linters and type checker are tests as well (tests/house/test_static.py).
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.levels import arguments_of

ROOT = Path(__file__).resolve().parent.parent

PACKAGE_OF = {
    "debootstrap": "debootstrap",
    "systemd-nspawn": "systemd-container",
    "nft": "nftables",
    "ip": "iproute2",
    "ssh": "openssh-client",
    "git": "git",
    "minisign": "minisign",
    "shellcheck": "shellcheck",
    "chromium": "chromium",
    "busybox": "busybox",
    "gpg": "gpg",
    "gpg-agent": "gpg-agent",  # gpg needs it to make a key, and only recommends it
    "c++": "g++",  # it brings libatomic, which the driver of the browser tests needs
    "python3-config": "python3-dev",
    "haproxy": "haproxy",
    "keepalived": "keepalived",
    "openssl": "openssl",
    "qemu-aarch64-static": "qemu-user-static",
    "cargo": "cargo",
}
"""Programs that tests run, and the package of each."""

MOST_PROCESSES = 8
"""Hosts of so many processes fit into the memory of a machine with as many cores."""


def processes() -> list[str]:
    """Return pytest's arguments for half as many processes again as there are cores: tests wait a quarter of their time or more.

    Lanes begin in the order of tests/lanes.py, not by their number of tests.
    """
    cores = len(os.sched_getaffinity(0))
    return ["-n", str(min(MOST_PROCESSES, cores + cores // 2)), "--no-loadscope-reorder"]


def report(text: str) -> None:
    """Write one line to stderr."""
    print(f"firstlight test: {text}", file=sys.stderr, flush=True)  # noqa: T201 - this is a script


def install_missing() -> None:
    """Install the packages of missing programs, or report what will be skipped without them."""
    missing = sorted({package for program, package in PACKAGE_OF.items() if shutil.which(program) is None})
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        report(
            f"not installed: {', '.join(missing)}; tests that need them will skip (as root: apt-get install {' '.join(missing)})"
        )
        return
    report(f"installing {', '.join(missing)}")
    if not apt("update", "-qq"):
        report("apt-get update ended with an error; going on with the lists at hand")
    if absent := [package for package in missing if not is_offered(package)]:
        report(f"this system's package sources have no {', '.join(absent)}; tests that need it will skip")
    wanted = [package for package in missing if package not in absent]
    if wanted and not apt("-o", "DPkg::Lock::Timeout=600", "install", "-qq", "-y", "--no-install-recommends", *wanted):
        report("that failed; tests that need these packages will skip")


def is_offered(package: str) -> bool:
    """Return whether apt has a package; with an unknown one (Ubuntu: chromium) it installs none."""
    return subprocess.run(["apt-cache", "show", package], capture_output=True, check=False).returncode == 0


def apt(*arguments: str) -> bool:
    """Run apt-get without questions, show its output if it fails, and return whether it succeeded."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        ["apt-get", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.stderr.write(done.stdout)
    return done.returncode == 0


def main() -> None:
    """Replace this process by pytest, so that the command has its last line and exit code."""
    arguments, needs_packages = arguments_of(sys.argv[1:])
    if needs_packages:
        install_missing()
    binaries = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{binaries}:{os.environ.get('PATH', os.defpath)}", "PYTHONPATH": str(ROOT)}
    # Tests start the product a thousand times; without compiled files each start would compile 430 modules anew, for 0.4 s.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    os.chdir(ROOT)
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", "pytest", *processes(), *arguments], environment)


if __name__ == "__main__":
    main()
