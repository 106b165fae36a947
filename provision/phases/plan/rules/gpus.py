"""The GPUs that serve: which ones, and the code that the builds have for them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from provision.catalog import catalog
from provision.catalog.versions import numbers, release
from provision.phases.plan import attention, driver, rocm
from provision.phases.plan.build_option import BuildOption, torch_codes
from provision.phases.plan.cards import NVIDIA, Card, Coverage, coverage, found_as, is_found, written
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, assume, host_rule, reject, rule, warn


@host_rule(order=20)
def gpus_requested(profile: HostProfile) -> Iterator[Verdict]:
    """Every requested GPU exists."""
    if not profile.bus_known:
        yield assume("the host has no GPU")
    for device_id in profile.displays:
        yield assume(f"NVIDIA GPU {device_id} is too old for vLLM and only shows a screen")
    if profile.policy.gpus is not None and profile.platform == "cpu":
        yield reject("`gpus` names GPUs by index, and the host has none", requested=list(profile.policy.gpus))
    elif profile.missing_gpus:
        missing = ", ".join(map(str, profile.missing_gpus))
        there = ", ".join(str(part.place) for card in profile.usable for part in card.sliced()) or "none"
        is_slice = isinstance(profile.missing_gpus[0], str)
        text = f"no GPU has slice {missing}: its slices are {there}" if is_slice else f"no GPU has index {missing}"
        yield reject(text, missing=list(profile.missing_gpus))
    elif profile.policy.gpus is not None:
        yield accept("every requested GPU exists", requested=list(profile.policy.gpus))


@host_rule(order=25)
def server_product(profile: HostProfile) -> Iterator[Verdict]:
    """A server whose product is known has the GPUs and the network cards of that product."""
    server = profile.server
    if server is None:
        return
    facts: dict[str, Any] = {"product": server.name, "gpus": server.found, "expected": server.gpus}
    there = f"{server.found} of {server.gpus} GPUs of this server are there ({server.name})"
    if server.found < server.gpus and profile.policy.gpus is None:
        yield warn(f"{there}: its checks will fail", source=server.source, **facts)
    else:
        yield accept(there, source=server.source, **facts)
    if server.nics is not None and server.nics_found < server.nics:
        text = f"{server.nics_found} of {server.nics} network cards for the fabric of GPUs are there ({server.name})"
        yield warn(text, source=server.source, nics=server.nics_found, expected=server.nics)


@host_rule(order=70)
def mixed_cards(profile: HostProfile) -> Iterator[Verdict]:
    """Only GPUs of one kind serve: of the kinds that the newest vLLM version supports, the one with the most memory in total on the host. Integrated graphics serve only if there is no other GPU. The plan names the other GPUs, which limit nothing."""
    serve = profile.cards
    left = [card for card in profile.present if card not in serve]
    if not serve:
        return
    facts: dict[str, Any] = {"serve": [card.index for card in serve], "left_out": _listed(left) or None}
    if left and profile.policy.gpus is None:
        yield warn(f"{_listed(serve)} serve; left out: {_listed(left)}: {_why(profile, left)}", **facts)
    elif len(serve) > 1 and len({card.kind for card in serve}) == 1:
        yield accept(f"{_listed(serve)} are of one kind and serve together", **facts)
    for name in dict.fromkeys(card.name for card in serve if card.vendor == NVIDIA and card.row is None):
        yield assume(f"{name} behaves as its compute capability implies (it is not in the catalog)")


def _why(profile: HostProfile, left: Sequence[Card]) -> str:
    if len(profile.usable) < len(profile.present):
        return "no build runs on NVIDIA and AMD GPUs together"
    if all(card.integrated for card in left):
        return "integrated graphics serve only if there is no other GPU"
    if profile.cards[0].runs and not any(card.runs for card in left):
        return "the newest vLLM has no code for them; `gpus` selects other GPUs"
    if all(card.kind == profile.cards[0].kind for card in left):
        return "a process sees one slice (MIG); `gpus` selects another"
    return "only one kind of GPU serves, the one with the most memory in total; `gpus` selects other GPUs"


def _listed(cards: Sequence[Card]) -> str:
    return ", ".join(f"{count}x {name}" for name, count in Counter(card.name for card in cards).items())


@host_rule(
    order=80,
    source="docs.nvidia.com/datacenter/tesla/mig-user-guide: CUDA sees one slice a process; github.com/vllm-project/vllm issue 41848",
)
def mig(profile: HostProfile) -> Iterator[Verdict]:
    """A GPU in MIG mode has a slice, and serves alone."""
    split = [card for card in profile.cards if card.mig and card.part is None]
    empty = [card.index for card in split if not card.slices]
    if empty:
        text = f"MIG is on for GPU {', '.join(map(str, empty))}, and the GPU has no slice: CUDA finds no device"
        yield reject(text, mig=empty, slices=0)
    elif split:
        listed = ", ".join(f"{card.index} ({card.slices} slices)" for card in split)
        text = f"MIG is on for GPU {listed}: CUDA uses the first slice alone, with that slice's memory; `gpus` names one slice"
        yield (reject if len(profile.cards) > 1 else warn)(text, mig=[card.index for card in split])
    elif any(card.mig for card in profile.present):
        yield accept("MIG is off for the GPUs that serve")


@rule(order=145, cause="mig-uuid")
def gpu_slice(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """vLLM finds the slice that it is given. On the host it finds a slice by UUID, and then takes the index of the slice on its GPU for that of a GPU; a container has the slice alone."""
    card = next((card for card in profile.cards if card.part), None)
    if card is None or card.part is None or option.release is None:
        return
    named = f"slice {card.place} ({card.part.profile or 'of unknown profile'})"
    row = catalog().slices_by_uuid
    same, podman = found_as(card.part, profile.present), "`firstlight_runtime: podman`"
    if profile.policy.runtime == "podman":
        yield accept(f"the container has {named} alone")
    elif release(option.release.version) < release(row.since):
        text = f"vLLM {option.release.version} reads CUDA_VISIBLE_DEVICES as numbers, and a slice is named by its UUID: {row.since} and newer can, or {podman}"
        yield reject(text, source=row.source, slice=card.place)
    elif not is_found(card, profile.present):
        there = f"which is another kind: {same.name}" if same else "which the host does not have"
        text = f"vLLM looks up {named} as GPU {card.part.index}, {there}; with {podman} it needs no such GPU"
        yield reject(text, source=row.source, slice=card.place)
    else:
        text = f"{named} serves; vLLM looks it up as GPU {card.part.index}, which is of the same kind"
        yield accept(text, source=row.source, slice=card.place)


@rule(order=150, cause="arch-not-in-build")
def gpu_code(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """Every extension that is launched has code for every GPU."""
    if profile.platform != "cuda":
        return
    if torch_codes(option.torch.version, option.torch_variant, profile.machine) is None:
        yield assume(f"torch {option.torch.version}+{option.torch_variant} contains code for the GPUs")
    for name, capability in profile.kinds:
        if capability is None:
            yield assume(f"the build contains code for {name}, whose compute capability is unknown")
            continue
        for part in driver.launched(option, profile):
            if capability in part.capabilities:
                yield from _part(part, name, capability)
        yield from _compiled(option, profile, name, capability)


def _compiled(option: BuildOption, profile: HostProfile, name: str, capability: str) -> Iterator[Verdict]:
    """Yield the extensions that are compiled on the host."""
    compilers = {row.extension: row for row in catalog().flash_compilers}
    for extension, using in attention.flash_extensions(option, profile).items():
        if extension in compilers and capability in using:
            row = compilers[extension]
            text = f"{row.name} compiles FlashAttention {extension[-1]} for {name} ({capability}) on the host at its first run"
            yield accept(text, source=row.source, compute_capability=capability)


def _part(part: driver.LaunchedCode, name: str, capability: str) -> Iterator[Verdict]:
    found = coverage(part.codes, capability)
    if found is Coverage.NONE:
        text = (
            f"{part.name} has no code for {name} (compute capability {capability}): it contains {written(part.codes)}"
        )
        yield reject(text, source=part.source, compute_capability=capability, codes=list(part.codes))
    elif found is Coverage.NATIVE:
        major, minor = numbers(capability)
        # From 9.0 on, a suffix that the catalog lacks may bind code to one card.
        if major >= 9 and f"{major}{minor}" not in part.codes:
            text = (
                f"{name} ({capability}) also runs the native code that {part.name} has for an earlier GPU of its family"
            )
            yield assume(text)
        text = f"{part.name} has native code for {name} ({capability})"
        yield accept(text, source=part.source, compute_capability=capability)


@rule(order=220, source="NVIDIA NCCL user guide, troubleshooting: PCI Access Control Services (ACS), IO virtualization")
def peer_paths(_: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """IOMMU and ACS do not redirect writes between GPUs."""
    paths = profile.peer_paths
    if len(profile.cards) < 2 or paths is None:
        return
    if paths:
        text = (
            f"{'; '.join(paths)}: such writes are slow, or hang. Boot with `iommu=pt`, and disable ACS in the firmware"
        )
        yield warn(text, paths=list(paths))
    else:
        yield accept("neither IOMMU nor ACS is active between the GPUs")


@host_rule(order=90, cause="rocm-device-permission")
def rocm_access(profile: HostProfile) -> Iterator[Verdict]:
    """The service has access to the AMD GPUs."""
    if profile.platform != "rocm":
        return
    needed = [row.name for row in catalog().access_groups]
    source = catalog().access_groups[0].source
    names = " and ".join(needed)
    missing = [name for name in needed if name not in (profile.groups or ())]
    if profile.escalates:
        yield accept(f"the service's user becomes a member of {names}", source=source, groups=needed)
    elif profile.groups is None:
        yield assume(f"the user is in the groups {names}, which have access to AMD GPUs")
    elif missing:
        text = f"this user is not in {' and '.join(missing)} and cannot open the GPUs; run `usermod -aG {','.join(missing)} USER` as root, then log in again"
        yield reject(text, source=source, missing=missing)
    else:
        yield accept(f"the user is in {names}", source=source, groups=needed)


@rule(order=100, cause="rocm-arch-unsupported")
def rocm_gfx(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """The build contains code for every AMD GPU."""
    if profile.platform != "rocm":
        return
    torch_row = next((row for row in catalog().rocm_archs if row.variant == option.torch_variant), None)
    lists = [("vLLM", option.build.gfx, option.build.source)] if option.build else []
    if torch_row:
        lists.append(("torch", torch_row.gfx, torch_row.source))
    else:
        yield assume(f"torch's {option.torch_variant} variant has code for the GPUs")
    for card in profile.cards:
        if card.gfx is None:
            yield assume(f"the build has code for the architecture of {card.name}")
            continue
        for part, gfx, source in lists:
            verdict_of, has = (accept, "has") if card.gfx in gfx else (reject, "has no")
            text = f"{part} {option.variant} {has} code for {card.gfx} ({card.name})"
            yield verdict_of(text, source=source, gfx=card.gfx)


@rule(order=90)
def rocm_userspace(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """The build runs on the host's ROCm."""
    if profile.platform != "rocm":
        return
    row = rocm.userspace(option)
    if profile.rocm is None and row is not None and not profile.foreign_driver and not rocm.fits(row, rocm.offered()):
        text = f"the build needs ROCm >={row.minimum},<{row.below}; the host has none, and {rocm.offered()} would be installed"
        yield reject(text, source=row.source, rocm=None)
    elif profile.rocm is None:
        yield assume(f"the host's ROCm suits {option.variant} builds")
    elif row is not None:
        text = f"the build needs ROCm >={row.minimum},<{row.below}; the host has {profile.rocm}"
        fits = rocm.fits(row, profile.rocm)
        if not fits and profile.policy.driver == "upgrade" and rocm.can_upgrade(profile):
            fits = rocm.fits(row, rocm.offered())
            text += f", which `--driver upgrade` upgrades to {rocm.offered()}"
        yield (accept if fits else reject)(text, source=row.source, rocm=profile.rocm)
    else:
        text = f"torch's {option.torch_variant} variant is for the host's ROCm {profile.rocm}"
        yield accept(text, source=option.torch.source, rocm=profile.rocm)
