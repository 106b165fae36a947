"""A vendor's package repository with real names and versions and nearly empty packages, and a host that shows its cards.

Only the hardware is simulated: the output of nvidia-smi, dkms and the fabric manager, and the PCI bus, were recorded on an
HGX H100. apt, dpkg, systemd, the restart and the whole product are real. A driver is "loaded" only by a restart, as when
another driver uses the cards.
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from provision.phases.probe.sections import split
from tests.fleet.commands import command
from tests.fleet.hosts import FleetHost

RECORDED = Path(__file__).parents[1] / "probe/recorded/h100-sxm8.txt"
OLD, NEW = "570.211.01", "580.178.04"
PLACE = "/srv/mirror"
"""The folder of the repository on a host."""

NVIDIA_SMI = """#!/bin/sh
loaded=$(cat /run/nvidia-loaded 2>/dev/null)
if [ -z "$loaded" ]; then
    echo "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA driver is installed and running."
    exit 9
elif [ "$loaded" != {version} ]; then
    echo "Failed to initialize NVML: Driver/library version mismatch"
    echo "NVML library version: {version}" | sed 's/\\.[0-9]*$//'
    exit 18
fi
state="In Progress"
[ -e /run/fabric-complete ] && state=Completed
case "$*" in
    "--query-gpu=driver_version "*) for card in 1 2 3 4 5 6 7 8; do echo {version}; done ;;
    "--query-gpu=uuid,compute_cap "*) cat /usr/share/nvidia/compute.csv ;;
    *) sed "s/<state>Completed</<state>$state</" /usr/share/nvidia/smi.xml ;;
esac
"""
FABRIC_MANAGER = """#!/bin/sh
if [ "$1" = --version ]; then
    echo "Fabric Manager version is : {version}"
    exit
fi
if [ "$(cat /run/nvidia-loaded 2>/dev/null)" != {version} ]; then
    echo "fabric manager NVIDIA GPU driver interface version {version} don't match with driver version $(cat /run/nvidia-loaded). Please update with matching NVIDIA driver package."
    exit 1
fi
touch /run/fabric-complete
exec sleep infinity
"""
FABRIC_UNIT = """[Unit]
Description=NVIDIA fabric manager service
[Service]
ExecStart=/usr/bin/nv-fabricmanager -c /usr/share/nvidia/nvswitch/fabricmanager.cfg
[Install]
WantedBy=multi-user.target
"""
PERSISTENCE_UNIT = """[Unit]
Description=NVIDIA Persistence Daemon
[Service]
ExecStart=/usr/bin/nvidia-persistenced --user nvidia-persistenced --no-persistence-mode --verbose
[Install]
WantedBy=multi-user.target
"""
"""A unit like Ubuntu's: it starts the daemon with persistence mode off."""
PERSISTENCED = "#!/bin/sh\nexec sleep infinity\n"
DKMS = """#!/bin/sh
version=$(dpkg-query -W -f '${Version}' nvidia-kernel-open-dkms 2>/dev/null | cut -d- -f1)
for folder in /lib/modules/*/kernel; do
    kernel=${folder#/lib/modules/}
    [ -n "$version" ] && [ -d "$folder" ] && [ -d "/usr/src/linux-headers-${kernel%/kernel}" ] && echo "nvidia/$version, ${kernel%/kernel}, x86_64: installed"
done
exit 0
"""


@dataclass(frozen=True)
class Package:
    """One package: the fields of its control file, and its few files."""

    name: str
    version: str
    depends: str = ""
    conflicts: str = ""
    provides: str = ""
    architecture: str = "all"
    """Those of one architecture can be installed beside those of another."""
    files: Mapping[str, str] = field(default_factory=dict)

    def control(self) -> str:
        """The control file's text."""
        fields = {
            "Package": self.name,
            "Version": self.version,
            "Architecture": self.architecture,
            "Multi-Arch": "" if self.architecture == "all" else "same",
            "Maintainer": "Nobody <nobody@example.com>",
            "Depends": self.depends,
            "Conflicts": self.conflicts,
            "Provides": self.provides,
            "Description": f"{self.name} without its contents",
        }
        return "".join(f"{name}: {value}\n" for name, value in fields.items() if value)

    def build(self, folder: Path) -> str:
        """Make the .deb in a folder; return its entry in the list of packages."""
        tree = folder / "tree"
        for name, text in {"DEBIAN/control": self.control(), **self.files}.items():
            path = tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755 if text.startswith("#!") else 0o644)
        file = folder / f"{self.name}_{self.version}_{self.architecture}.deb"
        command("dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(file))
        shutil.rmtree(tree)
        content = file.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        return f"{self.control()}Filename: ./{file.name}\nSize: {len(content)}\nSHA256: {digest}\n"


def driver(version: str) -> Iterator[Package]:
    """Return a driver's packages, with the names and dependencies of NVIDIA's for Debian."""
    revision = f"{version}-1"
    recorded = split(RECORDED.read_text())
    was = recorded["nvidia_smi"].text.split("<driver_version>")[1].split("<")[0]
    smi = recorded["nvidia_smi"].text.replace(was, version)
    yield Package("libcuda1", revision)
    yield Package(
        "nvidia-driver-cuda",
        revision,
        depends=f"libcuda1 (= {revision})",
        files={
            "usr/bin/nvidia-smi": NVIDIA_SMI.format(version=version),
            "usr/share/nvidia/smi.xml": smi,
            "usr/share/nvidia/compute.csv": recorded["nvidia_compute"].text,
        },
    )
    loaded = {"usr/lib/tmpfiles.d/nvidia-loaded.conf": f"f /run/nvidia-loaded 0644 root root - {version}\n"}
    for flavour, other in (("-open", ""), ("", "-open")):
        kernel = f"nvidia-kernel{flavour}-dkms"
        yield Package(kernel, revision, depends="dkms", conflicts=f"nvidia-kernel{other}-dkms", files=loaded)
    for name, kernel in (("nvidia-open", "nvidia-kernel-open-dkms"), ("cuda-drivers", "nvidia-kernel-dkms")):
        # As in the vendor's packages: at least this version, so that only a pin prevents a newer one.
        needs = f"{kernel} (>= {version}), nvidia-driver-cuda (>= {version}), nvidia-persistenced (>= {version})"
        yield Package(name, revision, depends=needs)
    unit = {
        "usr/lib/systemd/system/nvidia-persistenced.service": PERSISTENCE_UNIT,
        "usr/bin/nvidia-persistenced": PERSISTENCED,
    }
    yield Package("nvidia-persistenced", revision, files=unit)
    yield Package(
        "nvidia-fabricmanager",
        revision,
        files={
            "usr/bin/nv-fabricmanager": FABRIC_MANAGER.format(version=version),
            "usr/lib/systemd/system/nvidia-fabricmanager.service": FABRIC_UNIT,
        },
    )


def packages() -> Iterator[Package]:
    """Return all packages of the repository."""
    for version in (OLD, NEW, "595.91.07"):
        yield from driver(version)
    # A package that only the older branch has.
    yield Package("libnvidia-compute-570", f"{OLD}-1")
    yield Package("nvlsm", "2025.10.11-1")
    yield Package("dkms", "3.0.11-1", files={"usr/sbin/dkms": DKMS})
    yield Package(
        f"linux-headers-{os.uname().release}",
        "6.1.176-1",
        files={f"usr/src/linux-headers-{os.uname().release}/Makefile": "# nothing\n"},
    )
    nvcc = "#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.88'\n"
    yield Package("cuda-nvcc-13-0", "13.0.88-1", files={"usr/local/cuda-13.0/bin/nvcc": nvcc})
    libraries = ("lib64/libcudart.so", "lib64/stubs/libcuda.so")
    yield Package("cuda-cudart-dev-13-0", "13.0.96-1", files={f"usr/local/cuda-13.0/{file}": "" for file in libraries})
    yield Package("libcurand-dev-13-0", "10.4.0.35-1", files={"usr/local/cuda-13.0/include/curand_kernel.h": "/* */\n"})


@dataclass(frozen=True)
class Signer:
    """A key of the tests' own."""

    home: Path
    key: Path

    def fingerprint(self) -> str:
        """Return the fingerprint of the primary key."""
        listed = command("gpg", "--homedir", str(self.home), "--batch", "--with-colons", "--list-keys").splitlines()
        return next(line.split(":")[9] for line in listed if line.startswith("fpr:"))

    def sign(self, text: str, file: Path) -> None:
        """Write a text inside its signature."""
        file.unlink(missing_ok=True)
        command("gpg", "--homedir", str(self.home), "--batch", "--clearsign", "-o", str(file), stdin=text)


@contextmanager
def signer(folder: Path, name: str = "vendor") -> Iterator[Signer]:
    """Make a key, and end the agent that gpg starts for it.

    Its home is a short path: the agent's sockets are there, and a socket's path has at most 107 characters.
    """
    with TemporaryDirectory(prefix="gpg-") as short:
        home = Path(short)
        gpg = ("gpg", "--homedir", short, "--batch")
        command(*gpg, "--passphrase", "", "--quick-generate-key", f"{name} of the tests", "ed25519", "sign", "never")
        key = folder / f"{name}.asc"
        key.write_text(command(*gpg, "--armor", "--export"))
        try:
            yield Signer(home, key)
        finally:
            subprocess.run(["gpgconf", "--homedir", short, "--kill", "all"], check=False)


def build_repository(
    folder: Path,
    by: Signer,
    *,
    path: str = "debian12/x86_64",
    content: Iterable[Package] | None = None,
    origin: str = "NVIDIA",
) -> None:
    """Make a flat signed repository like the vendor's for Debian: BASE/debian12/x86_64/."""
    place = folder / path
    place.mkdir(parents=True)
    listing = "\n".join(package.build(place) for package in (packages() if content is None else content))
    (place / "Packages").write_text(listing)
    _release({"Packages": listing}, place, by, f"Origin: {origin}\n")


def build_suite(
    folder: Path,
    by: Signer,
    *,
    path: str,
    suite: str,
    content: Mapping[str, Iterable[Package]],
    origin: str = "repo.radeon.com",
    more: str = "",
) -> None:
    """Make a signed repository with a suite and the packages of each component, like AMD's: BASE/PATH/dists/SUITE.

    `more` are further lines of its Release file.
    """
    pool, lists = folder / path, folder / path / "dists" / suite
    listings = {}
    for component, of_it in content.items():
        name = f"{component}/binary-amd64/Packages"
        (lists / name).parent.mkdir(parents=True)
        listings[name] = "\n".join(package.build(pool) for package in of_it)
        (lists / name).write_text(listings[name])
    head = f"Origin: {origin}\nSuite: {suite}\nComponents: {' '.join(content)}\nArchitectures: amd64\n{more}"
    _release(listings, lists, by, head)


def _release(listings: Mapping[str, str], folder: Path, by: Signer, head: str) -> None:
    lines = [f" {hashlib.sha256(text.encode()).hexdigest()} {len(text)} {name}\n" for name, text in listings.items()]
    release = f"{head}Date: Fri, 20 Nov 2026 08:00:00 UTC\nSHA256:\n{''.join(lines)}"
    by.sign(release, folder / "InRelease")


def give_cards(host: FleetHost) -> None:
    """Show the bus of an HGX H100, and neither a container nor a virtual machine, also after restarts."""
    root = host.machine.root
    for line in split(RECORDED.read_text())["pci"].lines():
        path, _, value = line.rpartition(":0x")
        if path.startswith("/sys/bus/pci/devices/"):
            file = root / "opt/board" / Path(path).relative_to("/sys/bus/pci")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"0x{value}\n")
    (root / "opt/no-clocks").mkdir()
    processor = Path("/proc/cpuinfo").read_text()
    (root / "opt/cpuinfo").write_text(processor.replace(" hypervisor", ""))
    shown = {
        "/sys/bus/pci": "/opt/board",
        "/sys/devices/system/clocksource": "/opt/no-clocks",
        "/proc/cpuinfo": "/opt/cpuinfo",
    }
    units = {path.strip("/").replace("/", "-") + ".mount": (path, what) for path, what in shown.items()}
    for name, (path, what) in units.items():
        (root / "etc/systemd/system" / name).write_text(
            f"[Mount]\nWhat={what}\nWhere={path}\nType=none\nOptions=bind\n[Install]\nWantedBy=local-fs.target\n"
        )
    (root / "etc/tmpfiles.d/no-container.conf").write_text("r! /run/systemd/container\n")
    (root / "etc/modprobe.d").mkdir(exist_ok=True)  # from kmod, which a machine with its own kernel has
    host.sh(f"rm -f /run/systemd/container; systemctl daemon-reload; systemctl enable --now --quiet {' '.join(units)}")
