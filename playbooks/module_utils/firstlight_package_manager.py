"""What package managers have in common: packages of one repository, at one version. Runs on any Python from 3.8 on.

A repository without an address is the distribution's own.
"""

from __future__ import annotations

import fnmatch
import os
import re
import time

from ansible.module_utils.firstlight_host import HostError, read, write
from ansible.module_utils.firstlight_host import run as run_program

RECORDS = "/var/lib/firstlight-drivers"
"""What came with this product, a file for each repository; `uninstall --drivers` removes it. Lines: a word and a package."""
HELD = re.compile(
    "Could not get lock|is another process using it|locked by another process|Failed to obtain the transaction lock|already locked by"
)
HOLDER = re.compile(r"(?:held by process|another process with pid|already locked by) (\d+(?: \([^)]*\))?)")
PREBUILT = "linux-modules-nvidia-"
"""How names of packages begin that hold a driver's modules, which the distribution built for one of its kernels."""
UNANSWERED = "the source that is named must answer, and be signed by the key that is given"


def run(*words):
    """Return status, standard output, and standard output with standard error."""
    return run_program(*words, settings={"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_MODE": "l"})


def upstream(version):
    """Return a package's version without epoch and revision: 580.173.02 of 3:580.173.02-1.el9."""
    return version.rpartition(":")[2].rpartition("-")[0] or version


def numbers(version):
    return [int(part) for part in re.findall("[0-9]+", version)]


def address(uri):
    """Return an address without its scheme, since apt spells schemes differently: file:///srv is file:/srv."""
    return re.sub("^[a-z+]+:/*", "", uri).rstrip("/")


def matches(name, globs):
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in globs)


def kernels_without_headers(modules="/lib/modules"):
    """Return installed kernels whose headers are not there, the running one first; none in a container, which shares the kernel of its host.

    Headers count whatever brought them: those of Proxmox and of a kernel of one's own have packages of other names.
    """
    found = os.listdir(modules) if os.path.isdir(modules) else []
    kernels = [name for name in found if os.path.isdir(f"{modules}/{name}/kernel")]
    missing = [name for name in kernels if not os.path.exists(f"{modules}/{name}/build/Makefile")]
    return sorted(missing, key=lambda name: (name != os.uname().release, name))


class Manager:
    """What apt and dnf have in common. `part` is variable `vendor_packages_part`; None for its own `version`."""

    def __init__(self, part, version, lock_timeout_s):
        self.part = part
        self.repository = part["repository"]
        self.wanted = [package.split("|") for package in part["packages"]]
        self.names = [name for names in self.wanted for name in names]
        self.family = part.get("family")
        self.version = (version or part["version"]) if self.family else None
        self.oldest = part.get("oldest") or {}
        self.uri = self.repository["uri"] or f"the sources of {self.repository['name']}"
        self.lock_timeout_s = lock_timeout_s
        self.recorded = os.path.join(RECORDS, self.repository["name"])
        self.before = f"{self.recorded}.before"
        self.updated = False
        self.changes, self.notes = [], []

    @property
    def newer_kernel(self):
        return f"bring the kernel up to date ({self.upgrade}), restart the host, and run the command again"

    def patiently(self, *words):
        """Repeat a command while another package manager holds its lock, until the deadline."""
        deadline = time.monotonic() + self.lock_timeout_s
        while True:
            status, out, said = run(*words)
            # dnf's shell ends with 0 where it is locked out.
            if not HELD.search(said) or (status == 0 and "already locked by" not in said):
                return status, out, said
            if time.monotonic() >= deadline:
                holder = HOLDER.search(said)
                who = f" (process {holder.group(1)})" if holder else ""
                text = f"another package manager{who} held its lock for {self.lock_timeout_s} s"
                raise HostError(text, "wait for it to finish, then run the command again")
            time.sleep(2)

    def named_like_family(self, name):
        family = self.family or {"packages": ()}
        return matches(name, family["packages"]) and not matches(name, family.get("apart", ()))

    def in_family(self, name, version):
        """Return whether a package has the version scheme of the driver."""
        return self.named_like_family(name) and bool(re.match(self.family["version"], upstream(version)))

    def fits(self, name, version):
        if name in self.oldest and numbers(upstream(version)) < numbers(self.oldest[name]):
            return False
        return self.version is None or not self.named_like_family(name) or upstream(version) == self.version

    def satisfied(self, have):
        """Return whether every wanted package is installed in a fitting version; needs no repository."""
        there = {name for name, version in have.items() if self.fits(name, version)}
        return all(there.intersection(names) for names in self.wanted)

    def choose(self, offers):
        """Return each package with its version, by the first of its names that is available; and the packages without any.

        The driver's packages come from the vendor's repository in the wanted version; others (dkms) from any source.
        """
        chosen, missing = {}, []
        for names in self.wanted:
            for name in names:
                own = self.own_versions(name, offers)
                if not own and not self.named_like_family(name):
                    own = [version for version, _own in offers.get(name, ()) if self.fits(name, version)]
                if own:
                    chosen[name] = own[0]
                    break
            else:
                missing.append(names)
        return chosen, missing

    def choose_version(self, along, make):
        """Return the version to install: the planned one, or the newest within the plan's bounds that all packages have.

        Packages in `along` (the fabric manager) must be available in the same version.
        """
        wanted = [*self.wanted, *(package.split("|") for package in along)]
        family = [names for names in wanted if any(self.named_like_family(name) for name in names)]
        if not family or self.satisfied(self.installed()):
            return self.version
        found = self.common_versions(family)
        if self.version not in found and make:
            self.update()
            found = self.common_versions(family)
        least, below = self.part.get("at_least"), self.part.get("below")
        if self.version in found or not (least and below):
            return self.version
        fitting = [version for version in found if numbers(least) <= numbers(version) < numbers(below)]
        if not fitting:
            return self.version
        newest = max(fitting, key=numbers)
        text = f"has no {self.version} of all packages; {newest} is the newest within the plan's bounds"
        self.notes.append(f"{self.uri} {text}")
        return newest

    def common_versions(self, family):
        """Return versions that the repository has of each of these packages, under any of its names."""
        offers = self.offers_of([name for names in family for name in names])
        own = {name: {upstream(version) for version, is_own in each if is_own} for name, each in offers.items()}
        return set.intersection(*(set().union(*(own.get(name, ()) for name in names)) for names in family))

    def install_before(self, make):
        """Install packages that add further repositories. Where none is available, the error for a later package says so."""
        missing = [name for name in self.part.get("before", ()) if name not in self.installed()]
        offers = self.offers_of(missing)
        install = {name: offers[name][0][0] for name in missing if name in offers}
        if install:
            self.changes.append(f"packages {' '.join(install)}")
            if make:
                self.run_transaction(install, [])
                self.updated = False

    def own_versions(self, name, offers):
        """Return the fitting versions of a package that the repository itself has, the newest first."""
        return [version for version, is_own in offers.get(name, ()) if is_own and self.fits(name, version)]

    def not_on_offer(self, names, offers):
        there = sorted({version for name in names for version, _own in offers.get(name, ())}, reverse=True)
        what = f"{' or '.join(names)} {self.version or ''}".rstrip()
        text = f"package {what} is not on offer at {self.uri}; on offer: {', '.join(there[:6]) or 'none'}"
        hint = "check that the host reaches it (firstlight_driver_repository names a mirror), or plan another version"
        if not self.repository["uri"]:
            hint = f"enable {' '.join(self.repository['components'])} of the archive in the host's package sources"
        # The archive has the driver, and no module of it for a kernel that is older than the driver.
        if names[0].startswith(PREBUILT) and any(is_own for each in offers.values() for _version, is_own in each):
            raise HostError(text, self.newer_kernel)
        raise HostError(text, f"{hint}{self.elsewhere}")

    def transaction(self, have, headers, make):
        """Return what to install (name and version) and what to remove (names)."""
        chosen = {}
        if not self.satisfied(have):
            chosen, missing = self.choose(self.offers_of(self.names))
            if missing and make:
                self.update()
                offers = self.offers_of(self.names)
                chosen, missing = self.choose(offers)
                if missing:
                    self.not_on_offer(missing[0], offers)
            # In check mode the source may not be written yet, and what it offers is not known.
            chosen.update({names[0]: self.version or "newest" for names in missing})
        there = {name for name, version in have.items() if self.fits(name, version)}
        install = {name: version for name, version in chosen.items() if name not in there}
        remove = [name for name in have if matches(name, self.part.get("instead_of", ()))]
        others = [name for name in have if name not in there and self.in_family(name, have[name])]
        others = [name for name in others if name not in chosen and name not in remove]
        offered = self.offers_of(others)
        for name in others:
            if fitting := self.own_versions(name, offered):
                install[name] = fitting[0]
            else:
                remove.append(name)
        install.update(self.dependencies(install))
        if headers:
            install.update(self.headers(have, make))
        return install, sorted(remove)

    def dependencies(self, install):
        """Return further packages to name, so that the whole family has one version; apt's pin ensures that."""
        return {}

    def remember(self):
        """Write down what is installed before the first transaction whose packages are not recorded yet."""
        if not os.path.exists(self.before):
            write(self.before, "".join(f"{name} {version}\n" for name, version in sorted(self.installed().items())))

    def record(self):
        """Record packages that came since then, also with a run that was cut off.

        `installed` came with this product. `instead` is a driver, or are other packages of this part, in place of what was there before.
        """
        text = read(self.before)
        if text is None:
            return
        before, have = dict(line.split() for line in text.splitlines()), self.installed()
        others = [read(os.path.join(RECORDS, name)) for name in os.listdir(RECORDS)]
        ours = re.findall("^installed (.*)$", "".join(others), re.MULTILINE)
        changed = [name for name, version in before.items() if name not in ours and have.get(name) != version]
        replaced = [
            name for name in changed if (self.in_family(name, before[name]) if self.family else name in self.names)
        ]
        word = "instead" if replaced else "installed"
        self.note_down(word, [name for name in have if name not in before or name in replaced])
        os.unlink(self.before)

    def note_down(self, word, names):
        """Add a line for each package to the record; a later one replaces an earlier one."""
        lines = (read(self.recorded) or "").splitlines()
        kept = [line for line in lines if word == "held" or line.startswith("held ") or line.split()[1] not in names]
        write(self.recorded, "".join(f"{line}\n" for line in sorted({*kept, *(f"{word} {name}" for name in names)})))

    def no_headers(self, package, kernel, make):
        """Fail where the running kernel has no headers, since it would have no module; note it for other kernels."""
        if make and kernel == os.uname().release:
            text = f"package {package} is not on offer, so no module can be built for kernel {kernel}, which runs"
            raise HostError(text, self.newer_kernel)
        self.notes.append(f"package {package} is not on offer: no module is built for kernel {kernel}")
