"""The host: C library, processor, Python, memory, disk and packages of the distribution."""

from collections.abc import Iterator

from provision.catalog import catalog
from provision.catalog.packages import os_packages
from provision.catalog.versions import numbers
from provision.phases.plan import interpreter
from provision.phases.plan.build_option import BuildOption, offered_torch, unfit_torch
from provision.phases.plan.host_profile import INCOMING, HostProfile
from provision.phases.plan.rule import Verdict, accept, assume, host_rule, reject, rule

TOOLKIT = "1.18"
"""The oldest release of NVIDIA's container toolkit that describes GPUs at each boot. It names them by UUID since 1.15, and puts the driver's libraries first since 1.16. Source: github.com/NVIDIA/nvidia-container-toolkit/releases."""


@host_rule(order=10, cause="musl")
def libc(profile: HostProfile) -> Iterator[Verdict]:
    """The host's C library is glibc."""
    if profile.libc == "musl":
        yield reject("the host's C library is musl; vLLM and torch publish wheels for glibc only", libc="musl")
    elif profile.libc is None:
        yield assume("the C library is glibc")
    else:
        yield accept("the C library is glibc", libc=profile.libc)


def glibc_floor(option: BuildOption) -> tuple[str, str, str]:
    """Return the glibc that a candidate needs, the part that needs it, and the source."""
    needs = [(option.torch.glibc, f"torch {option.torch.version}", option.torch.source)]
    if option.build:
        inferred = " (inferred from another release)" if option.build.inferred else ""
        needs.append((option.build.glibc, f"the vLLM wheel{inferred}", option.build.source))
    return max(needs, key=lambda need: numbers(need[0]))


@rule(order=110, cause="glibc-too-old")
def glibc(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """The host's glibc is as new as the wheels need."""
    has, (needed, part, source) = profile.glibc, glibc_floor(option)
    if has is None:
        yield assume(f"glibc is {needed} or newer")
    elif numbers(has) < numbers(needed):
        yield reject(f"{part} needs glibc {needed}; the host has {has}", source=source, glibc=has, needed=needed)
    else:
        yield accept(f"the host has glibc {has}; {part} needs {needed}", source=source, glibc=has, needed=needed)


@rule(order=20)
def machine(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """There is a wheel for the host's processor architecture."""
    is_managed = profile.policy.torch == "managed"
    has, machines = profile.machine, option.build.machines if option.build else ("x86_64", "aarch64")
    if has is None:
        yield assume("the processor architecture is x86_64")
    elif has not in machines:
        source = option.build.source if option.build else None
        yield reject(f"the build is for {' and '.join(machines)}; the host is {has}", source=source, machine=has)
    elif is_managed and profile.platform == "cuda" and option.torch_variant not in offered_torch(has, option.torch):
        text = f"torch {option.torch.version} has no CUDA variant for {has} that matches {option.variant}"
        yield reject(text, source=option.torch.source, machine=has)
    elif is_managed and option.torch_variant.startswith("rocm") and has != "x86_64":
        yield reject(f"torch for ROCm is built for x86_64; the host is {has}", machine=has)
    else:
        yield accept(f"there is a wheel for {has}", machine=has)


@rule(order=30, cause="cpu-isa")
def cpu_isa(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """The processor supports the instructions that the CPU build needs."""
    if option.build is None or not option.build.isa:
        return
    ranks = {level.name: level.rank for level in catalog().levels if level.machine == (profile.machine or "x86_64")}
    floor = next((name for name in option.build.isa if name in ranks), None)
    if floor is None:
        return
    if profile.isa is None:
        yield assume(f"the processor supports {floor}")
    elif ranks.get(profile.isa, 0) < ranks[floor]:
        text = f"the build needs {floor}; the processor supports {profile.isa}"
        yield reject(text, source=option.build.source, isa=profile.isa, needed=floor)
    else:
        text = f"the processor supports {profile.isa}; the build needs {floor}"
        yield accept(text, source=option.build.source, isa=profile.isa)


@rule(order=120, cause="python-version-unsupported")
def python(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """A Python that the build supports is on the host or can be installed."""
    choice = interpreter.choose(option, profile)
    source = option.release.source if option.release else option.torch.source
    seen = [python.version for python in profile.usable_pythons]
    if choice.plan is None:
        yield reject(choice.why, source=source, pythons=seen)
        return
    if choice.assumed:
        yield assume(choice.assumed)
    yield accept(choice.why, source=source, pythons=seen)


@host_rule(order=30)
def python_requested(profile: HostProfile) -> Iterator[Verdict]:
    """The requested interpreter exists."""
    requested = profile.policy.python
    if requested is None:
        return
    found = next((python for python in profile.pythons if python.path == requested), None)
    if found is not None:
        yield accept(f"Python {found.version} of {requested} is used, and no other of the host", python=requested)
    elif not profile.pythons_known:
        yield assume(f"{requested} is a Python that the service's user can read")
    else:
        seen = [python.path for python in profile.pythons]
        text = f"`--set python={requested}` does not exist, does not run, or is in a home that the service's user cannot read"
        yield reject(f"{text} (found: {', '.join(seen) or 'none'})", python=requested, pythons=seen)


@host_rule(order=40)
def torch_existing(profile: HostProfile) -> Iterator[Verdict]:
    """With `--set torch=existing` the host has a torch, and it is a release for the host's devices."""
    if profile.policy.torch != "existing":
        return
    usable = profile.usable_pythons
    found = {python.path: python.torch for python in usable if python.torch}
    unfit = {path: why for path, torch in found.items() if (why := unfit_torch(torch, profile.platform))}
    fitting = {path: torch for path, torch in found.items() if path not in unfit}
    if fitting:
        listed = " and ".join(f"torch {torch} of {path}" for path, torch in fitting.items())
        yield accept(f"the host has {listed}", torch=list(fitting.values()))
    elif found:
        text = "; ".join(f"torch {found[path]} of {path} {why}" for path, why in unfit.items())
        yield reject(text, torch=list(found.values()))
    else:
        seen = ", ".join(python.path for python in usable) or "none"
        text = f"`--set torch=existing` needs a Python with torch that the service may use; the host has none (Pythons found: {seen})"
        yield reject(text, pythons=[python.path for python in usable])


@host_rule(order=100)
def memory(profile: HostProfile) -> Iterator[Verdict]:
    """The host's memory, or its cgroup's limit, is enough for the service."""
    need = catalog().needs[profile.platform]
    if profile.ram_gib is None:
        yield assume(f"at least {need.memory:g} GiB of host memory")
    elif profile.ram_gib < need.memory:
        text = (
            f"the host has {profile.ram_gib} GiB of memory (cgroup limit included); serving needs {need.memory:g} GiB"
        )
        yield reject(text, source=need.source, ram_gib=profile.ram_gib, needed_gib=need.memory)
    else:
        yield accept(
            f"serving needs {need.memory:g} GiB of memory, and the host has it",
            source=need.source,
            needed_gib=need.memory,
        )


@host_rule(order=110, cause="disk-full")
def disk(profile: HostProfile) -> Iterator[Verdict]:
    """The disks have space for the environment, its files and the model."""
    need, python = catalog().needs[profile.platform], catalog().python_need
    # a model that arrives on another file system is copied, so it needs its space twice
    model = profile.served_model.gib if profile.served_model else 0.0
    kept = need.installed + max(model, need.model) + python.installed
    arriving = need.wheels + python.archive + (0.0 if profile.one_mount else model)
    needed = kept + arriving if profile.one_mount else kept
    parts = {"environment": need.installed, "model": max(model, need.model), "Python": python.installed}
    parts |= {"files on arrival": arriving} if profile.one_mount else {}
    where = f"in the installation folder ({', '.join(f'{name} {gib:.1f}' for name, gib in parts.items())})"
    if profile.disk_gib is None:
        yield assume(f"at least {needed:.1f} GiB free {where}")
    elif profile.disk_gib < needed:
        text = f"{needed:.1f} GiB must be free {where}; {profile.disk_gib} GiB are free or already used for it"
        yield reject(text, source=need.source, free_gib=profile.disk_gib, needed_gib=round(needed, 1))
        return
    if not profile.one_mount and profile.incoming_gib is not None and profile.incoming_gib < arriving:
        text = (
            f"{profile.incoming_gib} GiB are free under {INCOMING}; the files that arrive there need {arriving:.1f} GiB"
        )
        yield reject(text, source=need.source, free_gib=profile.incoming_gib, needed_gib=round(arriving, 1))
        return
    if profile.disk_gib is not None:
        apart = "" if profile.one_mount else f", and {arriving:.1f} GiB under {INCOMING} for files on arrival"
        text = f"{needed:.1f} GiB must be free {where}{apart}; the host has this space"
        yield accept(text, source=need.source, needed_gib=round(needed, 1))


@host_rule(order=130)
def system_packages(profile: HostProfile) -> Iterator[Verdict]:
    """Libraries and compilers of the distribution are installed, or the user may install them."""
    for name in profile.unsure:
        yield assume(f"{name} is installed on the host, or a run installs it")
    if not profile.lacking:
        return
    names = ", ".join(profile.lacking)
    why = "; ".join(f"{need.name}: {need.why}" for need in catalog().system_needs if need.name in profile.lacking)
    if profile.escalates is None:
        yield assume(f"{names} can be installed on the host")
    elif profile.escalates:
        yield accept(f"{names} will be installed from the distribution ({why})", lacking=list(profile.lacking))
    else:
        ways = f"{_how_to_install(profile)}, or use {profile.way_to_root}"
        text = f"the host lacks {names} ({why}), and installation needs root; {ways}"
        yield reject(text, lacking=list(profile.lacking), escalates=False)


def _how_to_install(profile: HostProfile) -> str:
    manager = profile.manager or ""
    command = catalog().install_commands.get(manager)
    if command is None:
        return "install their packages"
    packages = os_packages(
        profile.lacking, manager=manager, python="3", os_id=profile.os_id, os_version=profile.os_version
    )
    return f"run `{command.install} {' '.join(packages)}`"


@host_rule(order=135)
def container_runtime(profile: HostProfile) -> Iterator[Verdict]:
    """A service in a container has a podman that is new enough, and what gives it the GPUs."""
    if profile.policy.runtime != "podman":
        return
    need = next(need for need in catalog().system_needs if need.runtime == "podman")
    asked, oldest = "`firstlight_runtime: podman`", need.oldest or ""
    if profile.platform == "rocm":
        yield reject(f"{asked}: containers serve on CPUs and on NVIDIA's GPUs")
    elif profile.systemd is False or profile.escalates is False:
        yield reject(f"{asked} needs root's systemd, which starts the container; set `ansible_become: true`")
    elif profile.podman is not None and numbers(profile.podman) < numbers(oldest):
        text = (
            f"{asked} needs podman {oldest} or newer; the host has {profile.podman}, which would leave parts of the unit out "
            "without a word: use a newer release of its distribution, or leave it out"
        )
        yield reject(text, source=need.source, podman=profile.podman, needed=oldest)
    elif "podman" in profile.unsure:
        yield assume(f"podman {oldest} or newer is on the host, and with GPUs NVIDIA's container toolkit")
    elif profile.platform == "cuda" and numbers(profile.container_toolkit or "0") < numbers(TOOLKIT):
        version = profile.container_toolkit
        has = f"NVIDIA container toolkit {version}" if version else "no NVIDIA container toolkit"
        yield reject(
            f"{asked}: the host has {has}, and {TOOLKIT} or newer names its GPUs for podman; "
            "install it first: `./firstlight provision --set container_toolkit=true --set runtime=venv`"
        )
    elif profile.podman is None:
        yield assume(f"the distribution's podman is {oldest} or newer")
    else:
        yield accept(f"the host has podman {profile.podman}; containers need {oldest}", podman=profile.podman)


@host_rule(order=140)
def rights(profile: HostProfile) -> Iterator[Verdict]:
    """A user who could become root is told so."""
    if profile.escalates is False and profile.sudo:
        yield accept(
            "not root: everything is in this user's home directory; `ansible_become: true` uses the user's sudo",
            escalates=False,
        )
