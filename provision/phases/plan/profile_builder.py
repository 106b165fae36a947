"""The host profile from facts and settings."""

import math
import re
from dataclasses import replace
from pathlib import PurePosixPath

from provision.catalog import catalog
from provision.catalog.versions import minor, numbers
from provision.core.environment_folders import model_files_there
from provision.core.formatting import GIB
from provision.core.install_paths import default_prefix
from provision.core.models.facts import HostFacts, Installed, Nvidia, Python
from provision.core.models.settings import Settings, model_name
from provision.phases.plan.cards import amd_cards, nvidia_cards, only_shows, server_of, serving
from provision.phases.plan.family.families import int8_on_x86
from provision.phases.plan.fit.serving_request import serving_request_of
from provision.phases.plan.fit.shape import Shape
from provision.phases.plan.fit.tables import lacks_bfloat16, rules
from provision.phases.plan.host_profile import INCOMING, HostProfile, Platform, ServedModel, Toolkit
from provision.phases.plan.policy import GivenWheel, policy_of

SILENT = "no answer from"
"""Start of the probe's reason for a program that timed out; any other reason means that nvidia-smi is absent."""
HOMES = ("/root", "/home")


def profile_of(
    facts: HostFacts,
    settings: Settings,
    *,
    escalates: bool = False,
    shape: Shape | None = None,
    wheel: GivenWheel | None = None,
) -> HostProfile:
    """Return the profile of one host.

    Args:
        escalates: Whether the inventory lets installation become root.
        shape: The user's model; None for the built-in one.
        wheel: The wheel that the settings name; None if they name a release.

    Raises:
        UsageError: Two settings contradict each other.
    """
    nvidia, amd = nvidia_cards(facts), amd_cards(facts)
    platform = platform_of_host(facts)
    usable = nvidia or amd
    policy = policy_of(settings)
    places = {one.place: one for card in usable for one in (card, *card.sliced())}
    cards = serving(usable)
    if policy.gpus is not None:
        cards = tuple(card for place, card in places.items() if place in policy.gpus)
    is_refused = shape is not None and shape.text_type in rules("float16")["refused"]
    if settings.dtype == "auto" and is_refused and any(lacks_bfloat16(card.compute_capability) for card in cards):
        settings = settings.model_copy(update={"dtype": "float32"})
        policy = policy_of(settings)
    if wheel:
        policy = replace(policy, vllm=wheel.policy)
    uid, home = 0 if escalates else facts.user.uid, facts.user.home
    root = None if uid is None else uid == 0
    prefix = settings.prefix
    if prefix is None and uid is not None and (home is not None or root):
        prefix = str(default_prefix(uid=uid, home=home or ""))
    # if the login is unknown, the first disk represents all
    disk = facts.disk_of(prefix) if prefix else next(iter(facts.disks), None)
    incoming = facts.disk_of(INCOMING)
    lacking, unsure = _system(facts, platform, policy.runtime)
    glibc = facts.os.libc_version if facts.os.libc != "musl" else None
    memory = facts.memory.usable
    server, served = server_of(facts), None
    if shape and policy.wants_vllm and settings.serve:
        request = serving_request_of(settings, on_cpu=platform == "cpu")
        served = ServedModel(settings.model, shape, request, memory)
    rounds_to_int8 = served is not None and served.shape.int8_activations
    present, arrived = _present_gib(facts, settings, platform, served), sum(facts.incoming.values()) / GIB
    one_mount = disk is None or incoming is None or disk.mount is None or disk.mount == incoming.mount
    profile = HostProfile(
        policy=policy,
        platform=platform,
        machine=facts.os.machine,
        libc=facts.os.libc,
        glibc=glibc,
        os_id=facts.os.id,
        os_version=facts.os.version_id,
        manager=facts.os.package_manager,
        systemd=None if facts.os.init is None else facts.os.init == "systemd",
        escalates=root,
        sudo=facts.user.passwordless_sudo,
        lingering=facts.user.lingering,
        isa=facts.cpu.isa if platform == "cpu" else None,
        multiplies_int8=_multiplies_int8(facts) if platform == "cpu" and rounds_to_int8 else None,
        ram_gib=_capped(memory, max(need.memory for need in catalog().needs.values())),
        disk_gib=_capped(disk.free if disk else None, most_disk(served), present + (arrived if one_mount else 0)),
        incoming_gib=_capped(incoming.free if incoming else None, most_disk(served), present + arrived),
        one_mount=one_mount,
        pythons=_pythons(facts, escalates=root, torch=policy.torch == "existing"),
        pythons_known="pythons" not in facts.unknown,
        podman=_version(facts, "podman") if policy.runtime == "podman" else None,
        container_toolkit=_version(facts, "nvidia-ctk") if policy.runtime == "podman" else None,
        lacking=lacking,
        unsure=unsure,
        bus_known=platform != "cpu" or "pci_gpus" not in facts.unknown,
        cards=cards,
        present=(*nvidia, *amd),
        displays=tuple(gpu.device_id for gpu in facts.pci_gpus if only_shows(gpu)),
        server=replace(server, gpus=settings.expected_gpus) if server and settings.expected_gpus else server,
        missing_gpus=tuple(place for place in policy.gpus or () if place not in places),
        rocm=facts.amd.rocm_version if facts.amd and platform == "rocm" else None,
        container=facts.container,
        container_known="container" not in facts.unknown,
        wsl=facts.wsl if platform != "cpu" else None,
        served_model=served,
        wheel=wheel,
    )
    profile = profile if platform == "cpu" else _with_environment(profile, facts)
    return _with_driver(profile, facts) if nvidia else profile


def platform_of_host(facts: HostFacts) -> Platform:
    """Return what builds for a host compute on: the GPUs of one vendor, else the processor."""
    return "cuda" if nvidia_cards(facts) else "rocm" if amd_cards(facts) else "cpu"


def _multiplies_int8(facts: HostFacts) -> bool | None:
    if facts.os.machine != "x86_64":
        return True
    return not set(int8_on_x86().flags).isdisjoint(facts.cpu.flags) if facts.cpu.flags else None


def _with_driver(profile: HostProfile, facts: HostFacts) -> HostProfile:
    nvidia = facts.nvidia or Nvidia()
    reported = nvidia.driver_version or nvidia.module_version
    # The hypervisor joined the cards to the fabric if they have joined and the VM has no fabric manager.
    joined_below = nvidia.fabric_state == "Completed (Success)" and nvidia.fabric_manager_version is None
    version = reported if reported and re.match(r"\d+(\.\d+)+", reported) else None
    loaded = "nvidia" in facts.kernel_modules
    unknown = bool({"nvidia", "nvidia.driver_version"} & facts.unknown.keys())
    # A container sees the cards and the module of its host; without the driver's library it can use neither.
    shut = facts.container and not (nvidia.gpus or nvidia.smi_error) and facts.libraries.get("libcuda.so.1", "") is None
    return replace(
        profile,
        driver=version,
        driver_absent=bool(shut) or (version is None and not loaded and (bool(facts.pci_gpus) or not unknown)),
        driver_fault=_fault(facts) if loaded else None,
        module=nvidia.module_flavour,
        fabric_manager=nvidia.fabric_manager_version,
        fabric_below=joined_below and facts.virtualization not in {None, "none"},
        nvswitches=None if nvidia.nvswitches is None else nvidia.nvswitches > 0,
    )


def _fault(facts: HostFacts) -> str | None:
    """Return the fault in the output of nvidia-smi, if it ran and listed no card."""
    nvidia = facts.nvidia
    if nvidia is None or nvidia.gpus:
        return None
    output = nvidia.smi_error or facts.unknown.get("nvidia.gpus", "")
    rows = catalog().driver_faults if nvidia.smi_error or output.startswith(SILENT) else ()
    return next((row.name for row in rows if re.search(row.pattern, output)), None)


def most_disk(served: ServedModel | None) -> float:
    """Return the largest disk space in GiB that any family of builds needs, the model included."""
    need, python = catalog().needs.values(), catalog().python_need
    model = served.gib if served else max(row.model for row in need)
    return max(row.installed + row.wheels for row in need) + model + python.installed + python.archive


def _present_gib(facts: HostFacts, settings: Settings, platform: Platform, served: ServedModel | None) -> float:
    """Return the disk space in GiB of what a host has: an environment, active or not, and the model to serve."""
    installed, need = facts.installed or Installed(prefix=""), catalog().needs[platform]
    there = {name.rpartition("-")[0] for name in installed.model_files if model_files_there(installed, name)}
    has_model = served is None or settings.model_on_host is not None or model_name(settings.model) in there
    if installed.current or installed.environments:
        return most_disk(served) if has_model else need.installed + need.wheels
    return served.gib if served and has_model else 0.0


def _capped(size: int | None, most: float, present: float = 0.0) -> int | None:
    return None if size is None else math.ceil(min(min(size // GIB, most) + present, most))


def _pythons(facts: HostFacts, *, escalates: bool | None, torch: bool) -> tuple[Python, ...]:
    """Return the interpreters that the service's user can read; a system-wide installation excludes those in homes."""
    homes = {*HOMES, facts.user.home or "/root"} - {"/"}
    return tuple(
        python.model_copy(update={"version": version[0], "venv": None, "torch": python.torch if torch else None})
        for python in facts.pythons
        if (version := re.match(r"\d+(\.\d+)+", python.version))
        and not (escalates and any(PurePosixPath(python.path).is_relative_to(home) for home in homes))
    )


def _system(facts: HostFacts, platform: Platform, runtime: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the missing system packages, and those of unknown state. The interpreter's choice checks headers."""
    lacking: list[str] = []
    unsure: list[str] = []
    programs = {program.name for program in facts.programs}
    for need in catalog().system_needs:
        if platform not in need.for_build or not (need.library or need.programs) or need.runtime not in (None, runtime):
            continue
        if need.library:
            seen = need.library in facts.libraries
            present = facts.libraries.get(need.library) is not None
        else:
            seen = bool(programs) or "programs" not in facts.unknown
            present = bool(programs & set(need.programs))
        if not present:
            (lacking if seen else unsure).append(need.name)
    return tuple(lacking), tuple(unsure)


def _peer_paths(facts: HostFacts) -> tuple[str, ...] | None:
    """Return the obstacles to direct writes over the bus: a translating IOMMU, and ACS on the switch above the cards."""
    topology = facts.topology
    if topology is None or facts.virtualization:
        return None
    cards = sum(device.kind == "card" for device in topology.devices)
    if cards < 2 or len(topology.nvlinks) >= cards * (cards - 1) // 2:
        return ()
    obstacles = ["the IOMMU translates writes between GPUs"] if topology.iommu == "translating" else []
    if parted := topology.parted:
        first, second = parted[0]
        more = f" and {len(parted) - 1} more pairs" if len(parted) > 1 else ""
        obstacles.append(f"ACS separates {first} and {second}{more} behind one switch")
    return tuple(obstacles)


def _version(facts: HostFacts, name: str) -> str | None:
    """Return the version of a program; None where it is absent or did not tell."""
    return next((program.version for program in facts.programs if program.name == name and program.version), None)


def _with_environment(profile: HostProfile, facts: HostFacts) -> HostProfile:
    """Add what surrounds the GPUs and the Stack, in no more detail than rules distinguish."""
    gcc = _version(facts, "gcc")
    unknown = bool({"cuda_toolkits", "programs"} & facts.unknown.keys())
    compiling = (kit for kit in facts.cuda_toolkits if "bin/nvcc" not in kit.lacks)
    kits = [Toolkit(minor(kit.version), kit.path, kit.lacks) for kit in compiling if kit.version]
    toolkits = tuple(sorted(kits, key=lambda kit: (numbers(kit.version), not kit.lacks)))
    needed = {row.name for row in catalog().access_groups}
    return replace(
        profile,
        secure_boot=facts.secure_boot,
        rivals=tuple(sorted(name for name in facts.kernel_modules if name.startswith(("nouveau", "nova")))),
        toolkits=None if unknown and not toolkits else toolkits,
        gcc=numbers(gcc)[0] if gcc else None,
        peer_paths=_peer_paths(facts),
        groups=None if facts.user.groups is None else tuple(sorted(needed & set(facts.user.groups))),
        umad="ib_umad" in facts.kernel_modules if facts.kernel_modules else None,
    )
