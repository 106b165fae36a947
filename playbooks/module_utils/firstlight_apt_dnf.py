"""Packages of one repository by apt, or by dnf. Runs on any Python from 3.8 on."""

from __future__ import annotations

import os
import re

from ansible.module_utils.firstlight_host import HostError, last_lines
from ansible.module_utils.firstlight_package_manager import (
    PREBUILT,
    UNANSWERED,
    Manager,
    address,
    kernels_without_headers,
    numbers,
    run,
)

FAILED = ("W: Failed to fetch", "W: GPG error", "W: An error occurred", "E:", "Err:")
"""How lines of `apt-get update` about a source that was not read begin; other warnings are about one that was."""
BUILDS = "why a module could not be built: /var/lib/dkms/*/*/build/make.log"


class Apt(Manager):
    upgrade = "apt-get full-upgrade"
    elsewhere = ""
    options = (
        "-y", "-q", "--no-install-recommends", "--allow-downgrades", "--allow-change-held-packages",
        "-o", "Dpkg::Use-Pty=0", "-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold",
    )  # fmt: skip

    def addresses(self):
        """Return addresses of the repository; of the distribution's own by the origin in its Release file."""
        if self.repository["uri"]:
            return {address(self.repository["uri"])}
        said = run("apt-get", "indextargets", "--format", "$(ORIGIN)\t$(REPO_URI)", "Created-By: Packages")[1]
        rows = [line.split("\t") for line in said.splitlines()]
        return {address(uri) for origin, uri in rows if origin == self.repository["origin"]}

    def packages(self):
        """Return name, version and whether it is held, of every installed package."""
        form = "${Package}\t${Version}\t${db:Status-Want}\t${db:Status-Status}\n"
        lines = run("dpkg-query", "-W", "-f", form)[1].splitlines()
        fields = [line.split("\t") for line in lines]
        return [(name, version, want == "hold") for name, version, want, status in fields if status == "installed"]

    def installed(self):
        return {name: version for name, version, _held in self.packages()}

    def offers_of(self, names):
        """Return [(version, whether it is from the repository)] by name, newest first."""
        found, own = {}, self.addresses()
        for line in run("apt-cache", "madison", *names)[1].splitlines() if names else ():
            name, version, source = [part.strip() for part in line.split("|")]
            found.setdefault(name, []).append((version, address(source.split(" ")[0]) in own))
        return found

    def candidates(self, names):
        """Return the version of each package that apt itself would install: one of backports only where that is installed or preferred."""
        said = run("apt-cache", "policy", *names)[1] if names else ""
        return dict(re.findall(r"^(\S+):\n.*\n +Candidate: (\S+)$", said, re.MULTILINE))

    def update(self):
        if self.updated:
            return
        self.updated = True
        status, _out, said = self.patiently("apt-get", "-q", "update")
        lines = [line for line in said.splitlines() if line.startswith(FAILED)]
        own = [line for line in lines if any(name in line for name in self.addresses())]
        # Another source that does not answer is ignored; ours, or a list that cannot be read, is an error.
        if own or (status != 0 and re.search("Conflicting values|Malformed", said)):
            raise HostError(f"apt-get update: {' '.join((own or lines)[:2])}", UNANSWERED)

    def repair(self, make):
        """Finish packages that another run of dpkg left half configured."""
        broken = [line.split()[0] for line in run("dpkg", "--audit")[1].splitlines() if line.startswith(" ")]
        if not broken:
            return
        self.changes.append(f"half-configured packages {' '.join(broken[:6])}")
        if not make:
            return
        status, _out, said = self.patiently("dpkg", "--configure", "-a")
        if status != 0:
            status, _out, said = self.patiently("apt-get", *self.options, "-f", "install")
        if status != 0:
            text = f"half-configured packages could not be repaired: {last_lines(said, 3)}"
            raise HostError(text, f"try it on the host: dpkg --configure -a; {BUILDS}")

    def headers(self, have, make):
        """Return header packages for installed kernels, and those that follow the distribution's newest kernel."""
        exact = {f"linux-headers-{kernel}": kernel for kernel in kernels_without_headers()}
        images = [name for name in have if re.match("linux-image-(?!unsigned|[0-9])", name)]
        image_of = {name.replace("image", "headers", 1): name for name in images}
        missing = [name for name in (*exact, *image_of) if name not in have]
        offers, found = self.offers_of(missing), {}
        if make and offers.keys() != set(missing):
            self.update()
            offers = self.offers_of(missing)
        # Headers and image of one kernel have equal versions, and the next kernel is the image's candidate.
        next_images = self.candidates([image_of[name] for name in missing if name in image_of])
        for name in missing:
            if name in offers:
                versions = [version for version, _own in offers[name]]
                following = next_images.get(image_of.get(name))
                found[name] = following if following in versions else versions[0]
            elif name in exact:
                self.no_headers(name, exact[name], make)
        return found

    def run_transaction(self, install, remove):
        # A bare name is the package of the host's own architecture alone.
        gone = run("dpkg-query", "-W", "-f", "${Package}:${Architecture}-\n", *remove)[1].split() if remove else []
        words = [*(f"{name}={version}" for name, version in sorted(install.items())), *gone]
        status, _out, said = self.patiently("apt-get", *self.options, "install", *words)
        if status != 0:
            cause = re.compile("E:|Err|Error! Bad|dpkg: error| .*(Depends|Conflicts|Breaks):")
            causes = [line.strip() for line in said.splitlines() if cause.match(line)]
            text = f"packages {' '.join(words)} were not installed: {' '.join(causes[:4])}"
            # The module of an older kernel requires a driver of its own age.
            older = re.compile(rf"({PREBUILT}\S+ : )?Depends: nvidia-kernel-common-\S+ \(<= ")
            is_for_older = any(older.match(cause) for cause in causes)
            by_hand = f"try it on the host: apt-get install {' '.join(words)}; {BUILDS}"
            raise HostError(text, self.newer_kernel if is_for_older else by_hand)

    def hold(self, make):
        """Hold the driver's packages, so that no upgrade of the distribution changes one of them alone."""
        loose = sorted(
            name
            for name, version, held in self.packages()
            if not held and self.in_family(name, version) and self.fits(name, version)
        )
        if loose:
            self.changes.append(f"held {' '.join(loose)}")
        if loose and make:
            self.note_down("held", loose)
            status, _out, said = self.patiently("apt-mark", "hold", *loose)
            if status != 0:
                raise HostError(f"apt-mark hold: {said.strip()[-200:]}")


class Dnf(Manager):
    """dnf. The repository is enabled only for our calls, so no upgrade of the distribution sees a newer driver."""

    upgrade = "dnf upgrade kernel"
    elsewhere = "; dkms and ocl-icd come from EPEL: enable it on the host"

    def __init__(self, part, **options):
        super().__init__(part, **options)
        self.id = f"firstlight-{self.repository['name']}"

    def dnf(self, *words):
        options = ("--setopt=install_weak_deps=False", "--setopt=exit_on_lock=True", f"--enablerepo={self.id}")
        return self.patiently("dnf", "-y", "-q", *options, *words)

    def installed(self):
        lines = run("rpm", "-qa", "--qf", "%{NAME}\t%{EVR}\n")[1].splitlines()
        return dict(line.split("\t") for line in lines if not line.startswith("gpg-pubkey\t"))

    def offers_of(self, names):
        """Return [(version, whether it is from the repository)] by name, newest first."""
        found = {}
        if not names or not os.path.exists(f"/etc/yum.repos.d/{self.id}.repo"):
            return found
        status, out, said = self.dnf("repoquery", "--qf", "%{name}\t%{evr}\t%{repoid}", *names)
        if status != 0:
            causes = [line for line in said.splitlines() if line.startswith("Error")]
            raise HostError(f"dnf repoquery: {' '.join(causes[:2]) or said.strip()[-200:]}", UNANSWERED)
        for line in out.splitlines():
            name, version, source = line.split("\t")
            found.setdefault(name, []).append((version, source == self.id))
        for offers in found.values():  # dnf sorts them as text
            offers.sort(key=lambda offer: numbers(offer[0] if ":" in offer[0] else f"0:{offer[0]}"), reverse=True)
        return found

    def update(self):
        self.dnf("--refresh", "makecache")

    def repair(self, make):
        """Do nothing: rpm leaves nothing half configured."""

    def dependencies(self, install):
        """Return the family's packages that these require: dnf would take the newest that a requirement allows."""
        specs = [f"{name}-{version}" for name, version in install.items()]
        if self.version is None or not specs:
            return {}
        out = self.dnf("repoquery", "--requires", "--resolve", "--recursive", "--qf", "%{name}", *specs)[1]
        needed = sorted({name for name in out.split() if self.named_like_family(name) and name not in install})
        offers = self.offers_of(needed)
        fitting = {name: self.own_versions(name, offers) for name in offers}
        return {name: versions[0] for name, versions in fitting.items() if versions}

    def headers(self, have, make):
        """Return kernel-devel for installed kernels; NVIDIA's packages require the one of each new kernel."""
        there = run("rpm", "-q", "--provides", "--whatprovides", "kernel-devel-uname-r")[1].splitlines()
        found = {}
        for kernel in kernels_without_headers():
            # Of kernels of another kind it has another name, such as kernel-64k-devel.
            provided = f"kernel-devel-uname-r = {kernel}"
            if provided in there:
                continue
            if packages := self.dnf("repoquery", "--whatprovides", provided)[1].split():
                found[packages[-1]] = None  # the name says the version: one package for each kernel
            else:
                self.no_headers(provided, kernel, make)
        return found

    def run_transaction(self, install, remove):
        specs = [f"{name}-{version}" if version else name for name, version in sorted(install.items())]
        lines = [f"install {' '.join(specs)}"] if specs else []
        lines += [f"remove {' '.join(remove)}"] if remove else []
        # One transaction for both: dnf's shell, which takes its lines from a file.
        script = f"/run/firstlight-{os.getpid()}.dnf"
        with open(script, "w", encoding="utf-8") as file:
            file.write("\n".join([*lines, "run"]) + "\n")
        try:
            said = self.dnf("--allowerasing", "shell", script)[2]
        finally:
            os.unlink(script)
        have = self.installed()
        # dnf's shell ends with 0 whatever became of the transaction.
        named = {name: version for name, version in install.items() if version}
        absent = [name for name in named if name not in have or not self.fits(name, have[name])]
        if absent or set(remove) & have.keys():
            causes = [line.strip() for line in said.splitlines() if re.match(r"\s*(Error|Problem|- )", line)]
            text = f"packages {' '.join(specs)} were not installed: {' '.join(causes[:4]) or said.strip()[-300:]}"
            raise HostError(text, f"try it on the host: dnf --enablerepo={self.id} install {' '.join(specs)}")

    def hold(self, make):
        """Do nothing: see the class."""
