"""Packages of one repository, at one version, in one transaction of apt or dnf. Runs on any Python from 3.8 on.

A repository without an address is the distribution's own.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import subprocess
import time

HELD = re.compile(
    "Could not get lock|is another process using it|locked by another process|Failed to obtain the transaction lock"
)
HOLDER = re.compile(r"(?:held by process|another process with pid) (\d+(?: \([^)]*\))?)")
UNANSWERED = "the source that is named must answer, and be signed by the key that is given"


ARGUMENTS = {
    "packages": {"type": "list", "elements": "str", "required": True},
    "version": {"type": "str"},
    "family": {
        "type": "dict",
        "options": {
            "packages": {"type": "list", "elements": "str", "required": True},
            "version": {"type": "str", "required": True},
            "apart": {"type": "list", "elements": "str", "default": []},
        },
    },
    "repository": {"type": "dict", "required": True},
    "lock_timeout_s": {"type": "int", "default": 600},
}
"""Arguments that the modules have in common."""


class PackageError(Exception):
    """What stands against the packages, and what helps."""

    def __init__(self, text, hint=None):
        super().__init__(text)
        self.hint = hint


def run(*words):
    """Return status, standard output, and standard output with standard error."""
    settings = dict(os.environ, LC_ALL="C", DEBIAN_FRONTEND="noninteractive", NEEDRESTART_MODE="l")
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=settings, check=False)
    return done.returncode, done.stdout, done.stdout + done.stderr


def upstream(version):
    """Return a package's version without epoch and revision: 580.173.02 of 3:580.173.02-1.el9."""
    return version.rpartition(":")[2].rpartition("-")[0] or version


def numbers(version):
    return [int(part) for part in re.findall("[0-9]+", version)]


def build_error():
    """Return the first compiler error of a module that dkms failed to build within the last hour."""
    logs = glob.glob("/var/lib/dkms/nvidia*/*/build/make.log")
    logs = [path for path in logs if time.time() - os.path.getmtime(path) < 3600]
    for path in sorted(logs, key=os.path.getmtime, reverse=True):
        with open(path, errors="replace") as file:
            said = [line.strip() for line in file if re.search(r"\berror: ", line)]
        if said:
            return f"; {path}: {re.sub(r'^.*/', '', said[0])}"
    return ""


def address(uri):
    """Return an address without its scheme, since apt spells schemes differently: file:///srv is file:/srv."""
    return re.sub("^[a-z+]+:/*", "", uri).rstrip("/")


def matches(name, globs):
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in globs)


def kernels():
    """Return installed kernels, the running one first; none in a container, which shares the kernel of its host."""
    found = []
    if os.path.isdir("/lib/modules"):
        found = [name for name in os.listdir("/lib/modules") if os.path.isdir(f"/lib/modules/{name}/kernel")]
    return sorted(found, key=lambda name: (name != os.uname().release, name))


class Manager:
    """What apt and dnf have in common."""

    def __init__(self, wanted):
        self.wanted = wanted
        self.version = wanted["version"]
        self.family = wanted["family"]
        self.uri = wanted["repository"]["uri"] or f"the sources of {wanted['repository']['name']}"
        self.updated = False
        self.changes, self.notes = [], []

    def patiently(self, *words):
        """Repeat a command while another package manager holds its lock, until the deadline."""
        deadline = time.monotonic() + self.wanted["lock_timeout_s"]
        while True:
            status, out, said = run(*words)
            if status == 0 or not HELD.search(said):
                return status, out, said
            if time.monotonic() >= deadline:
                holder = HOLDER.search(said)
                who = f" (process {holder.group(1)})" if holder else ""
                text = f"another package manager{who} held its lock for {self.wanted['lock_timeout_s']} s"
                raise PackageError(text, "wait for it to finish, then run the command again")
            time.sleep(2)

    def named_like_family(self, name):
        return bool(self.family) and matches(name, self.family["packages"]) and not matches(name, self.family["apart"])

    def in_family(self, name, version):
        """Return whether a package has the version scheme of the driver."""
        return self.named_like_family(name) and bool(re.match(self.family["version"], upstream(version)))

    def fits(self, name, version):
        return self.version is None or not self.named_like_family(name) or upstream(version) == self.version

    def satisfied(self, have):
        """Return whether every wanted package is installed in a fitting version; needs no repository."""
        return all(
            any(name in have and self.fits(name, have[name]) for name in package.split("|"))
            for package in self.wanted["packages"]
        )

    def choose(self, offers):
        """Return each package with its version, by the first of its names that is available; and the packages without any.

        The driver's packages come from the vendor's repository in the wanted version; others (dkms) from any source.
        """
        chosen, missing = {}, []
        for package in self.wanted["packages"]:
            for name in package.split("|"):
                own = [version for version, is_own in offers.get(name, ()) if is_own and self.fits(name, version)]
                if not own and not self.named_like_family(name):
                    own = [version for version, _ in offers.get(name, ())]
                if own:
                    chosen[name] = own[0]
                    break
            else:
                missing.append(package)
        return chosen, missing

    def choose_version(self, make):
        """Return the version to install: the planned one, or the newest within the plan's bounds that all packages have.

        Packages in `along` (the fabric manager) must be available in the same version.
        """
        wanted = [package.split("|") for package in (*self.wanted["packages"], *self.wanted["along"])]
        family = [names for names in wanted if any(self.named_like_family(name) for name in names)]
        if self.version is None or not family or self.satisfied(self.installed()):
            return self.version
        found = self.common_versions(family)
        if self.version not in found and make:
            self.update()
            found = self.common_versions(family)
        least, below = self.wanted["at_least"], self.wanted["below"]
        if self.version in found or not (least and below):
            return self.version
        fitting = [version for version in found if numbers(least) <= numbers(version) < numbers(below)]
        return max(fitting, key=numbers, default=self.version)

    def common_versions(self, family):
        """Return versions that the repository has of each of these packages, under any of its names."""
        offers = self.offers_of([name for names in family for name in names])
        each = [
            {upstream(version) for name in names for version, is_own in offers.get(name, ()) if is_own}
            for names in family
        ]
        return set.intersection(*each)

    def install_before(self, make):
        """Install packages that add further repositories. Where none is available, the error for a later package says so."""
        missing = [name for name in self.wanted["before"] if name not in self.installed()]
        offers = self.offers_of(missing)
        install = {name: offers[name][0][0] for name in missing if name in offers}
        if install:
            self.changes.append(f"packages {' '.join(install)}")
            if make:
                self.run_transaction(install, [])
                self.updated = False

    def wanted_offers(self):
        return self.offers_of([name for package in self.wanted["packages"] for name in package.split("|")])

    def not_on_offer(self, package, offers):
        names = package.split("|")
        there = sorted({version for name in names for version, _ in offers.get(name, ())}, reverse=True)
        what = f"{' or '.join(names)} {self.version or ''}".rstrip()
        raise PackageError(
            f"package {what} is not on offer at {self.uri}; on offer: {', '.join(there[:6]) or 'none'}",
            f"check that the host reaches it (firstlight_driver_repository names a mirror), or plan another version{self.elsewhere}",
        )

    def transaction(self, have, make):
        """Return what to install (name and version) and what to remove (names)."""
        install, chosen = {}, {}
        if not self.satisfied(have):
            offers = self.wanted_offers()
            chosen, missing = self.choose(offers)
            if missing and make:
                self.update()
                offers = self.wanted_offers()
                chosen, missing = self.choose(offers)
                if missing:
                    self.not_on_offer(missing[0], offers)
            # In check mode the source may not be written yet, and what it offers is not known.
            chosen.update({package.split("|")[0]: self.version or "newest" for package in missing})
            install = {
                name: version for name, version in chosen.items() if name not in have or not self.fits(name, have[name])
            }
        remove = [name for name in have if matches(name, self.wanted["instead_of"])]
        others = [
            name
            for name, version in have.items()
            if name not in chosen
            and name not in remove
            and self.in_family(name, version)
            and not self.fits(name, version)
        ]
        offered = self.offers_of(others)
        for name in others:
            fitting = [version for version, is_own in offered.get(name, ()) if is_own and self.fits(name, version)]
            if fitting:
                install[name] = fitting[0]
            else:
                remove.append(name)
        install.update(self.dependencies(install))
        if self.wanted["headers"]:
            install.update(self.headers(have, make))
        return install, sorted(remove)

    def dependencies(self, install):
        """Return further packages to name, so that the whole family has one version; apt's pin ensures that."""
        return {}

    def no_headers(self, package, kernel, make):
        """Fail where the running kernel has no headers, since it would have no module; note it for other kernels."""
        if make and kernel == os.uname().release:
            raise PackageError(
                f"package {package} is not on offer, so no module can be built for kernel {kernel}, which runs",
                f"bring the kernel up to date ({self.upgrade}), restart the host, and run the command again",
            )
        self.notes.append(f"package {package} is not on offer: no module is built for kernel {kernel}")


class Apt(Manager):
    upgrade = "apt-get full-upgrade"
    elsewhere = ""
    options = (
        "-y", "-q", "--no-install-recommends", "--allow-downgrades", "--allow-change-held-packages",
        "-o", "Dpkg::Use-Pty=0", "-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold",
    )  # fmt: skip

    def addresses(self):
        """Return addresses of the repository; of the distribution's own by the origin in its Release file."""
        repository = self.wanted["repository"]
        if repository["uri"]:
            return {address(repository["uri"])}
        form = "$(ORIGIN)\t$(REPO_URI)"
        rows = [
            line.split("\t")
            for line in run("apt-get", "indextargets", "--format", form, "Created-By: Packages")[1].splitlines()
        ]
        return {address(uri) for origin, uri in rows if origin == repository["origin"]}

    def packages(self):
        """Return name, version and whether it is held, of every installed package."""
        form = "${Package}\t${Version}\t${db:Status-Want}\t${db:Status-Status}\n"
        lines = run("dpkg-query", "-W", "-f", form)[1].splitlines()
        fields = [line.split("\t") for line in lines]
        return [(name, version, want == "hold") for name, version, want, status in fields if status == "installed"]

    def installed(self):
        return {name: version for name, version, _ in self.packages()}

    def offers_of(self, names):
        """Return [(version, whether it is from the repository)] by name, newest first."""
        found, own = {}, self.addresses()
        for line in run("apt-cache", "madison", *names)[1].splitlines() if names else ():
            name, version, source = [part.strip() for part in line.split("|")]
            found.setdefault(name, []).append((version, address(source.split(" ")[0]) in own))
        return found

    def update(self):
        if self.updated:
            return
        self.updated = True
        status, _, said = self.patiently("apt-get", "-q", "update")
        lines = [line for line in said.splitlines() if line.startswith(("W:", "E:", "Err:"))]
        own = [line for line in lines if any(name in line for name in self.addresses())]
        # Another source that does not answer is ignored; ours, or a list that cannot be read, is an error.
        if own or (status != 0 and re.search("Conflicting values|Malformed", said)):
            raise PackageError(f"apt-get update: {' '.join((own or lines)[:2])}", UNANSWERED)

    def repair(self, make):
        """Finish packages that another run of dpkg left half configured."""
        broken = [line.split()[0] for line in run("dpkg", "--audit")[1].splitlines() if line.startswith(" ")]
        if not broken:
            return
        self.changes.append(f"half-configured packages {' '.join(broken[:6])}")
        if not make:
            return
        status, _, said = self.patiently("dpkg", "--configure", "-a")
        if status != 0:
            status, _, said = self.patiently("apt-get", *self.options, "-f", "install")
        if status != 0:
            causes = [line for line in said.splitlines() if line.startswith(("dpkg: error", "E:", "Error! Bad"))]
            text = f"half-configured packages could not be repaired: {' '.join(causes[:3])}{build_error()}"
            raise PackageError(text, "try it on the host: dpkg --configure -a")

    def headers(self, have, make):
        """Return header packages for installed kernels, and those that follow the distribution's newest kernel."""
        exact = {f"linux-headers-{kernel}": kernel for kernel in kernels()}
        images = [name for name in have if re.match("linux-image-(?!unsigned|[0-9])", name)]
        missing = [
            name for name in (*exact, *(name.replace("image", "headers", 1) for name in images)) if name not in have
        ]
        offers, found = self.offers_of(missing), {}
        if make and offers.keys() != set(missing):
            self.update()
            offers = self.offers_of(missing)
        for name in missing:
            if name in offers:
                found[name] = offers[name][0][0]
            elif name in exact:
                self.no_headers(name, exact[name], make)
        return found

    def run_transaction(self, install, remove):
        words = [*(f"{name}={version}" for name, version in sorted(install.items())), *(f"{name}-" for name in remove)]
        status, _, said = self.patiently("apt-get", *self.options, "install", *words)
        if status != 0:
            causes = [
                line.strip()
                for line in said.splitlines()
                if re.match("E:|Err|Error! Bad|dpkg: error| .*(Depends|Conflicts|Breaks):", line)
            ]
            text = f"packages {' '.join(words)} were not installed: {' '.join(causes[:4])}{build_error()}"
            raise PackageError(text, f"try it on the host: apt-get install {' '.join(words)}")

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
            status, _, said = self.patiently("apt-mark", "hold", *loose)
            if status != 0:
                raise PackageError(f"apt-mark hold: {said.strip()[-200:]}")


class Dnf(Manager):
    """dnf. The repository is enabled only for our calls, so no upgrade of the distribution sees a newer driver."""

    upgrade = "dnf upgrade kernel"
    elsewhere = "; dkms and ocl-icd come from EPEL: enable it on the host"

    def __init__(self, wanted):
        super().__init__(wanted)
        self.id = f"firstlight-{wanted['repository']['name']}"

    def dnf(self, *words):
        return self.patiently("dnf", "-y", "-q", "--setopt=install_weak_deps=False", f"--enablerepo={self.id}", *words)

    def installed(self):
        lines = run("rpm", "-qa", "--qf", "%{NAME}\t%{EVR}\n")[1].splitlines()
        return dict(line.split("\t") for line in lines)

    def offers_of(self, names):
        """Return [(version, whether it is from the repository)] by name, newest first."""
        found = {}
        if not names or not os.path.exists(f"/etc/yum.repos.d/{self.id}.repo"):
            return found
        status, out, said = self.dnf("repoquery", "--qf", "%{name}\t%{evr}\t%{repoid}", *names)
        if status != 0:
            causes = [line for line in said.splitlines() if line.startswith("Error")]
            raise PackageError(f"dnf repoquery: {' '.join(causes[:2]) or said.strip()[-200:]}", UNANSWERED)
        for line in out.splitlines():
            name, version, source = line.split("\t")
            found.setdefault(name, []).insert(0, (version, source == self.id))
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
        fitting = {
            name: [version for version, is_own in offers if is_own and self.fits(name, version)]
            for name, offers in self.offers_of(needed).items()
        }
        return {name: versions[0] for name, versions in fitting.items() if versions}

    def headers(self, have, make):
        """Return kernel-devel for installed kernels; NVIDIA's packages require the one of each new kernel."""
        there = run("rpm", "-q", "--qf", "%{VERSION}-%{RELEASE}.%{ARCH}\n", "kernel-devel")[1].split()
        found = {}
        for kernel in kernels():
            name = f"kernel-devel-{kernel}"
            if kernel in there:
                continue
            if self.dnf("repoquery", name)[1].strip():
                found[name] = None  # the name says the version: one package for each kernel
            else:
                self.no_headers(name, kernel, make)
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
            _, _, said = self.dnf("--allowerasing", "shell", script)
        finally:
            os.unlink(script)
        have = self.installed()
        # dnf's shell ends with 0 whatever became of the transaction.
        named = {name: version for name, version in install.items() if version}
        absent = [name for name in named if name not in have or not self.fits(name, have[name])]
        if absent or set(remove) & have.keys():
            causes = [line.strip() for line in said.splitlines() if re.match(r"\s*(Error|Problem|- )", line)]
            text = f"packages {' '.join(specs)} were not installed: {' '.join(causes[:4]) or said.strip()[-300:]}"
            raise PackageError(text, f"try it on the host: dnf --enablerepo={self.id} install {' '.join(specs)}")

    def hold(self, make):
        """Do nothing: see the class."""


def manager_of(wanted):
    """Return the package manager of a repository, given a module's arguments."""
    return {"apt": Apt, "dnf": Dnf}[wanted["repository"]["manager"]](wanted)
