"""Packages of one repository by dnf. Runs on any Python from 3.8 on."""

from __future__ import annotations

import os
import re

from ansible.module_utils.firstlight_errors import HostError
from ansible.module_utils.firstlight_package_manager import UNANSWERED, Manager, kernels, run


class Dnf(Manager):
    """dnf. The repository is enabled only for our calls, so no upgrade of the distribution sees a newer driver."""

    upgrade = "dnf upgrade kernel"
    elsewhere = "; dkms and ocl-icd come from EPEL: enable it on the host"

    def __init__(self, part, **options):
        super().__init__(part, **options)
        self.id = f"firstlight-{self.repository['name']}"

    def dnf(self, *words):
        return self.patiently("dnf", "-y", "-q", "--setopt=install_weak_deps=False", f"--enablerepo={self.id}", *words)

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
