"""Driver work of a host, derived from facts, Stack and settings: the host variables of playbooks/drivers.yml.

A driver that the plan keeps is not changed. A fabric manager of another version is repaired all the same, since the GPUs
cannot compute without an equal one.
"""

from dataclasses import asdict
from typing import Any, Literal

from provision.catalog import catalog
from provision.catalog.packages import (
    Repository,
    distribution_driver,
    package_system,
    packages_of_component,
    packages_of_distribution,
    repository_of_component,
)
from provision.catalog.rows.hardware import DistributionDriver
from provision.catalog.versions import numbers
from provision.core.errors import InstallError, UsageError
from provision.core.models.base import Record
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.core.models.stack import DriverPlan, Stack
from provision.phases.plan import rocm
from provision.phases.plan.cards import is_made, layout_of
from provision.phases.plan.driver import needs_fabric_manager

FAMILY = "nvidia-driver"
CONTAINER_TOOLKIT, TOOLKIT_PROGRAM = "container-toolkit", "nvidia-ctk"


class DriverWork(Record):
    """One host's work; None where nothing is to be done."""

    driver: dict[str, Any] | None = None
    fabric_manager: dict[str, Any] | None = None
    cuda_toolkit: dict[str, Any] | None = None
    cuda_compat: dict[str, Any] | None = None
    container_toolkit: dict[str, Any] | None = None
    slices: dict[str, Any] | None = None
    rocm: dict[str, Any] | None = None
    reboot: bool = False

    @property
    def parts(self) -> dict[str, dict[str, Any]]:
        """What is to be done, by field."""
        return {name: part for name, part in self if isinstance(part, dict)}

    @property
    def needed(self) -> bool:
        """Return whether there is anything to do."""
        return bool(self.parts)

    def named(self) -> str:
        """Return the work as text: `NVIDIA driver 580.173.02 (open kernel modules), fabric manager 580.173.02`."""
        words = []
        if self.driver:
            whose = ", the distribution's own" if self.driver["source"] == "distribution" else ""
            words.append(f"NVIDIA driver {self.driver['version']} ({self.driver['module']} kernel modules{whose})")
        if self.fabric_manager:
            words.append(f"fabric manager {self.fabric_manager['version']}")
        if self.cuda_toolkit:
            words.append(f"CUDA toolkit {self.cuda_toolkit['version']}")
        if self.cuda_compat:
            words.append(f"compatibility libraries of CUDA {self.cuda_compat['version']}")
        if self.container_toolkit:
            words.append("NVIDIA container toolkit")
        if self.slices:
            words.append(f"slices of GPUs ({self.slices['layout']})")
        if self.rocm:
            upgraded = f" {self.rocm['version']}" if rocm.USERSPACE in self.rocm["parts"] else ""
            words.append(" and ".join(self.rocm["parts"]) + upgraded)
        return ", ".join(words)

    def ansible_vars(self) -> dict[str, Any]:
        """Host variables of playbooks/drivers.yml (docs/reference/playbooks.md); a role without its variable does nothing."""
        return {f"firstlight_{name}": part for name, part in self.parts.items()} | {"firstlight_reboot": self.reboot}


def driver_work(host: Host, facts: HostFacts, stack: Stack) -> DriverWork:
    """Return the driver work of one host.

    Raises InstallError when the plan wants a driver and no packages are known for the host's system.
    """
    if facts.container or facts.wsl:
        return DriverWork()
    try:
        return DriverWork(
            driver=_driver(host, facts, stack.driver),
            fabric_manager=_fabric_manager(host, facts, stack),
            cuda_toolkit=_cuda_toolkit(host, facts),
            cuda_compat=_cuda_compat(host, facts, stack),
            container_toolkit=_container_toolkit(host, facts),
            slices=_slices(host, facts),
            rocm=_rocm(host, facts, stack),
            reboot=host.settings.reboot,
        )
    except UsageError as error:
        raise InstallError(f"host `{host.name}`: {error.text}", hint=error.hint) from None


def _driver(host: Host, facts: HostFacts, plan: DriverPlan | None) -> dict[str, Any] | None:
    """Return the driver to install; modules that the distribution `signed` need no key of the host."""
    if plan is None or plan.action == "keep" or plan.version is None:
        return None
    module, row = plan.module or "open", None
    if plan.source == "distribution" and (row := _own(facts, plan.version, module)) is None:
        raise UsageError(f"no driver of {facts.os.id} {facts.os.version_id}'s own is known")
    names = () if row is None else row.open if module == "open" else row.proprietary
    return {
        "version": plan.version,
        "branch": plan.branch,
        "at_least": plan.at_least,
        "below": plan.below,
        "module": module,
        "source": plan.source,
        "instead_of": list(catalog().package_components[f"driver-{module}"].instead_of),
        "signed": row is not None and row.signed,
        **_in_family(host, facts, f"driver-{module}", plan.version, row=row, names=names),
    }


def _fabric_manager(host: Host, facts: HostFacts, stack: Stack) -> dict[str, Any] | None:
    """Return the fabric manager to install: from the driver's source, since both must have the same version."""
    version = stack.fabric_manager
    if version is None or not needs_fabric_manager(stack, facts):
        return None
    beside = [catalog().package_components["subnet-manager"]] if stack.subnet_manager else []
    plan = stack.driver or DriverPlan(action="keep")
    row = _own(facts, version, plan.module) if plan.source != "vendor" else None
    # Of a driver that stays nothing says whose it is, but the settings, and Secure Boot with the version that the distribution signs.
    if plan.action == "keep" and row is not None and host.settings.driver_source != "distribution":
        row = row if facts.secure_boot and row.signed and row.version == version else None
    names = row.fabric_manager if row else ()
    return {
        "version": version,
        "at_least": plan.at_least,
        "below": plan.below,
        "extra": [package for row in beside for package in row.packages],
        "modules": [module for row in beside for module in row.modules],
        **_in_family(host, facts, "fabric-manager", version, row=row if names else None, names=names),
    }


def _in_family(
    host: Host,
    facts: HostFacts,
    component: str,
    version: str,
    *,
    row: DistributionDriver | None,
    names: tuple[str, ...],
) -> dict[str, Any]:
    """Return packages of a driver's version and their repository: those of a distribution's row, else the vendor's component."""
    family = catalog().package_families[FAMILY]
    if row is None:
        source = _component(host, facts, component, branch=_branch(version))
    else:
        packages = packages_of_distribution(names, row, facts.os.kernel)
        # the host has address and key of its distribution's sources
        repository = asdict(Repository(row.id, "apt", row.components, rivals=("NVIDIA",), origin=row.origin))
        source = {"packages": list(packages), "repository": repository, "before": []}
    apart = list(row.apart) if row else []
    return {**source, "family": {"packages": list(family.packages), "version": family.version, "apart": apart}}


def _own(facts: HostFacts, version: str, module: Literal["open", "proprietary"] | None) -> DistributionDriver | None:
    """Return the distribution's own driver of a version's branch."""
    system = facts.os
    return distribution_driver(system.id, system.version_id, system.machine, branch=_branch(version), module=module)


def _cuda_toolkit(host: Host, facts: HostFacts) -> dict[str, Any] | None:
    version = host.settings.cuda_toolkit
    whole = (toolkit.version or "" for toolkit in facts.cuda_toolkits if not toolkit.lacks)
    if version is None or any(found.startswith(version) for found in whole):
        return None
    return {"version": version, **_component(host, facts, "cuda-toolkit", cuda=version)}


def _cuda_compat(host: Host, facts: HostFacts, stack: Stack) -> dict[str, Any] | None:
    plan = stack.cuda_compat
    if plan is None or has_compat(facts, plan.folder):
        return None
    packages = _component(host, facts, "cuda-compat", cuda=plan.cuda)
    return {"version": plan.cuda, "folder": plan.folder, **packages}


def has_compat(facts: HostFacts, folder: str) -> bool:
    """Return whether the host has the compatibility libraries in a folder."""
    return any(toolkit.compat and f"{toolkit.path}/compat" == folder for toolkit in facts.cuda_toolkits)


def older_container_toolkit(facts: HostFacts) -> str | None:
    """Return the version of a container toolkit that is below the vendor's fixed release; None if there is no such one."""
    fixed = max((catalog().package_components[CONTAINER_TOOLKIT].oldest or {}).values(), key=numbers)
    found = [program.version for program in facts.programs if program.name == TOOLKIT_PROGRAM and program.version]
    return next((version for version in found if numbers(version) < numbers(fixed)), None)


def _container_toolkit(host: Host, facts: HostFacts) -> dict[str, Any] | None:
    oldest = catalog().package_components[CONTAINER_TOOLKIT].oldest
    is_there = any(program.name == TOOLKIT_PROGRAM for program in facts.programs)
    if not host.settings.container_toolkit or (is_there and not older_container_toolkit(facts)):
        return None
    return {"oldest": oldest, **_component(host, facts, CONTAINER_TOOLKIT, mirror=False)}


def _slices(host: Host, facts: HostFacts) -> dict[str, Any] | None:
    layout = layout_of(host.settings.mig)
    return {"layout": layout} if layout and not is_made(facts, layout) else None


def _rocm(host: Host, facts: HostFacts, stack: Stack) -> dict[str, Any] | None:
    parts = rocm.lacking(stack, facts)
    if not parts:
        return None
    components = catalog().package_components
    return {
        "parts": list(parts),
        "version": stack.rocm.version if stack.rocm else None,
        "sources": [{"oldest": components[part].oldest, **_component(host, facts, part)} for part in parts],
    }


def _component(
    host: Host,
    facts: HostFacts,
    component: str,
    *,
    branch: str = "",
    cuda: str = "",
    mirror: bool = True,
) -> dict[str, Any]:
    """Return the packages of a component, and their repository."""
    packages = packages_of_component(component, branch=branch, cuda=cuda)
    repository = repository_of_component(
        component,
        os_id=facts.os.id,
        version_id=facts.os.version_id,
        machine=facts.os.machine,
        mirror=host.settings.driver_repository if mirror else None,
        key=host.settings.driver_key if mirror else None,
    )
    # packages that add the repositories of a module's dependencies
    builds = catalog().package_components[component].builds
    before = package_system(facts.os.id, facts.os.version_id).also if builds else ()
    return {"packages": list(packages), "repository": asdict(repository), "before": list(before)}


def _branch(version: str) -> str:
    return version.partition(".")[0]
