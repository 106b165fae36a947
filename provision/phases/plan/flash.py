"""The source of flash kernels: vLLM's wheel, the separate flash-attn package, and FlashInfer.

The package is a published wheel with its exact key, a third-party one, a build from source, or flash-attn-4, whose
one wheel fits every key.
"""

from typing import Literal

from provision.catalog import catalog
from provision.catalog.rows.builds import CommunityWheels, FlashSource, FlashWheels, OwnWheels
from provision.catalog.versions import between, cuda_of, minor, newest_first, numbers, release, within
from provision.core.models.stack import FlashAttnKey, FlashAttnPackage, FlashAttnPlan, FlashInferPlan, KernelPackage
from provision.phases.plan import attention, interpreter
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.cards import all_native, written
from provision.phases.plan.host_profile import HostProfile, Toolkit
from provision.phases.plan.rule import Choice

URL = "https://github.com/Dao-AILab/flash-attention/releases/download/v{version}/{file}"
GENERATION_4 = "flash-attn-4"
CONTROLLER = "controller"
WANTED = ("package", "both")
NONE = FlashAttnPlan(provider="none")


def choose(option: BuildOption, profile: HostProfile) -> Choice[FlashAttnPlan]:
    """Return the flash-attn part of a candidate."""
    policy = profile.policy.flash_attn
    if policy == "none":
        return Choice(NONE, "`--flash-attn none` disables flash kernels")
    bundled = _bundled(option, profile)
    if policy == "bundled":
        return Choice(bundled, "the kernels in vLLM's wheel, as `--flash-attn bundled` requests")
    obstacle = "it is for GPUs, and this host serves from its processor" if profile.platform == "cpu" else ""
    if profile.policy.torch == "existing":
        obstacle = "it cannot be checked against a torch that only the host has"
    found: Choice[FlashAttnPackage | None] = Choice(None, obstacle) if obstacle else _package_for(option, profile)
    if found.plan is None:
        refused = f"the flash-attn package is requested: {found.why}" if policy in WANTED else None
        return Choice(bundled, f"without the package: {found.why}", refused, source=found.source)
    decodes = "; vLLM still decodes with its own kernels" if bundled is not NONE else ""
    package, plan = found.plan, bundled.model_copy(update={"package": found.plan})
    if option.release is None:  # the package's kernels serve
        plan = FlashAttnPlan(provider=package.source, version=package.version, source=package.file, package=package)
    return Choice(plan, f"{found.why}{decodes}", source=found.source)


def _bundled(option: BuildOption, profile: HostProfile) -> FlashAttnPlan:
    plan = attention.choose(option, profile).plan if option.release and profile.platform == "cuda" else None
    if plan is None or option.release is None or plan.backend not in catalog().flash_backends:
        return NONE
    source = "vllm_flash_attn in the vLLM wheel"
    return FlashAttnPlan(provider="bundled", version=option.release.flash_commit, source=source)


def _package_for(option: BuildOption, profile: HostProfile) -> Choice[FlashAttnPackage | None]:
    """Return the package: a wheel of the authors for the key, an allowed third-party one, a build by the builder, or flash-attn-4."""
    found = interpreter.choose(option, profile).plan
    policy, requested = profile.policy, profile.policy.flash_version
    cuda = cuda_of(option.torch_variant)
    key = FlashAttnKey(
        cuda_major=numbers(cuda)[0] if cuda else None,
        rocm=None if cuda else option.torch_variant.removeprefix("rocm"),
        torch=minor(option.torch.version),
        cxx11_abi=option.torch.cxx11_abi,
        python=minor(found.version) if found else "",
        machine=profile.machine or "x86_64",
        glibc=profile.glibc or option.torch.glibc,
        capabilities=profile.capabilities if cuda else tuple(sorted({card.gfx for card in profile.cards if card.gfx})),
    )
    row, missing = _published(key, option, requested, profile.driver)
    if row is not None:
        name = _name(row.version, key, option)
        package = FlashAttnPackage(
            version=row.version, source="wheel", file=name, key=key, url=URL.format(version=row.version, file=name)
        )
        return Choice(package, f"flash-attn {row.version} has the exact wheel {name}", source=row.source)
    if third_party := _community(key, option.torch_variant, requested):
        cp = f"cp{key.python.replace('.', '')}"
        made_for = f"{third_party.version}+{third_party.variant}torch{key.torch}"
        name = f"flash_attn-{made_for}-{cp}-{cp}-{third_party.platform}.whl"
        package = FlashAttnPackage(
            version=third_party.version, source="wheel", file=name, key=key, community=third_party.repository
        )
        if policy.flash_wheels == "community":
            why = f"{missing}; {third_party.repository} has the exact wheel {package.file}, a third-party build"
            return Choice(package, why, source=third_party.source)
        missing += f"; {third_party.repository} has {package.file}, which only `--flash-attn-wheels community` allows"
    built = _built(key, option, requested, policy.builder, missing)
    if policy.builder is not None and built.plan is not None:
        return built
    newer = _generation_4(option, profile, requested)
    if newer.plan is not None:
        return Choice(newer.plan, f"{missing}; {newer.why}", source=newer.source)
    if built.plan is not None:
        hint = f"`--set builder={CONTROLLER}` would build it from source"
        return Choice(None, f"{missing}; {newer.why}; {hint}", source=built.source)
    return Choice(None, f"{built.why}; {newer.why}", source=built.source)


def _generation_4(option: BuildOption, profile: HostProfile, requested: str | None) -> Choice[FlashAttnPackage | None]:
    """Return flash-attn-4 for a candidate, or the reason against it."""
    version = option.release.version if option.release else None
    rows = newest_first(row for row in catalog().flash_4 if requested in {None, row.version})
    row = next((row for row in rows if version and between(version, row.since, row.until)), None)
    if row is None:
        named = f"{GENERATION_4} {requested}" if rows and requested else GENERATION_4
        return Choice(None, f"{named} is for other releases of vLLM")
    name = f"{GENERATION_4} {row.version}"
    cuda = numbers(cuda_of(option.variant) or "0")[0]
    model = profile.served_model.shape.architecture if profile.served_model else None
    if cuda != row.cuda_major:
        why = f"{name} is for builds of CUDA {row.cuda_major}"
    elif others := {card for _, card in profile.kinds if not card or numbers(card)[0] not in row.majors}:
        majors = ", ".join(f"{major}.x" for major in row.majors)
        why = f"{name} is for compute capability {majors}; the GPUs have {', '.join(card or 'an unknown one' for card in sorted(others, key=str))}"
    elif model in row.without:
        why = f"vLLM cannot load {model} beside {name}"
    else:
        file = f"flash_attn_4-{row.version}-py3-none-any.whl"
        package = FlashAttnPackage(distribution=GENERATION_4, version=row.version, source="wheel", file=file)
        return Choice(package, f"{name} fits vLLM {version} and is compiled at first use", source=row.source)
    return Choice(None, why, source=row.source)


def _published(
    key: FlashAttnKey, option: BuildOption, version: str | None, driver: str | None
) -> tuple[OwnWheels | None, str]:
    """Return the newest published wheel with a key and GPU code that the driver reads, or the reason why there is none."""
    if key.cuda_major is None:
        return None, f"flash-attn has no published wheel for {option.torch_variant}"
    rows = newest_first(catalog().flash_wheels)
    torches = {torch for row in rows for torch in row.torch}
    if key.torch not in torches:
        return None, f"published wheels end at torch {max(torches, key=numbers)}; the plan has {key.torch}"
    for row in rows:
        if version not in {None, row.version} or f"cu{key.cuda_major}" not in row.cuda or not _has(row, key):
            continue
        if not (row.driver and driver) or numbers(driver) >= numbers(row.driver):
            return row, ""
        if version:
            return None, f"the wheels of flash-attn {version} need driver {row.driver} or newer; the driver is {driver}"
    which = f"published wheel of flash-attn {version}" if version else "published wheel"
    host = f"Python {key.python}, {key.machine}, glibc {key.glibc} and these GPUs"
    return None, f"no {which} is for torch {key.torch}, cu{key.cuda_major}, {host}"


def _has(row: FlashWheels, key: FlashAttnKey) -> bool:
    return (
        key.torch in row.torch
        and key.python in row.pythons
        and key.machine in row.machines
        and f"{key.torch}/{key.python}" not in row.without
        and numbers(key.glibc) >= numbers(row.glibc)
        and all_native(row.codes, key.capabilities)
    )


def _built(
    key: FlashAttnKey, option: BuildOption, requested: str | None, builder: str | None, missing: str
) -> Choice[FlashAttnPackage | None]:
    row = next((row for row in newest_first(catalog().flash_sources) if requested in {None, row.version}), None)
    if row is None:
        return Choice(None, f"{missing}; the catalog has no source of flash-attn {requested}")
    short = _unbuildable(row, key)
    if short:
        return Choice(None, f"{missing}; flash-attn {row.version} cannot be built: {short}", source=row.source)
    name = _name(row.version, key, option)
    kernels: Literal["ck", "triton"] | None = None
    if key.cuda_major is None:
        kernels = "ck" if set(key.capabilities) <= set(row.gfx) else "triton"
    whose = {"ck": " with Composable Kernel", "triton": " with Triton's kernels", None: ""}[kernels]
    why = f"{missing}; {builder} builds flash-attn {row.version}{whose} for this key"
    package = FlashAttnPackage(
        version=row.version, source="built", file=name, key=key, builder=builder, kernels=kernels
    )
    return Choice(package, why, source=row.source)


def _unbuildable(row: FlashSource, key: FlashAttnKey) -> str | None:
    if not key.capabilities:
        return "the architecture of the GPUs is unknown"
    if not within(f"{key.torch}.0", row.torch) or not within(f"{key.python or 0}.0", row.python):
        return f"it is for torch {row.torch} and Python {row.python}"
    if key.machine not in row.machines:
        return f"it is for {' and '.join(row.machines)}"
    if key.cuda_major is not None:
        native = all_native(row.codes, key.capabilities)
        return None if native else f"it has kernels for {written(row.codes)}"
    if numbers(key.rocm or "0") < numbers(row.rocm):
        return f"it needs ROCm {row.rocm}"
    return None if row.triton or set(key.capabilities) <= set(row.gfx) else f"it has kernels for {', '.join(row.gfx)}"


def _name(version: str, key: FlashAttnKey, option: BuildOption) -> str:
    toolkit = f"cu{key.cuda_major}" if key.cuda_major is not None else option.torch_variant.replace(".", "")
    cp = f"cp{key.python.replace('.', '')}"
    abi = str(key.cxx11_abi).upper()
    return f"flash_attn-{version}+{toolkit}torch{key.torch}cxx11abi{abi}-{cp}-{cp}-linux_{key.machine}.whl"


def _community(key: FlashAttnKey, variant: str, version: str | None) -> CommunityWheels | None:
    """Return the newest wheels with a key. Their CUDA has the major of torch's and is not newer."""
    cuda = numbers(cuda_of(variant) or "")

    def own(row: CommunityWheels) -> tuple[int, ...]:
        return numbers(cuda_of(row.variant) or "0")

    def fits(row: CommunityWheels) -> bool:
        return version in {None, row.version} and own(row)[:1] == cuda[:1] and own(row) <= cuda and _has(row, key)

    return max(filter(fits, catalog().community_wheels), key=lambda row: (release(row.version), own(row)), default=None)


FLASHINFER = "FLASHINFER"


def choose_flashinfer(option: BuildOption, profile: HostProfile) -> Choice[FlashInferPlan | None] | None:
    """Return the FlashInfer part of a candidate; None if no rule applies."""
    if option.release is None or profile.platform != "cuda":
        return None
    version = option.release.flashinfer
    served = attention.choose(option, profile).plan
    wanted = served is not None and served.backend == FLASHINFER
    if version is None:
        missing = f"vLLM {option.release.version} does not depend on FlashInfer"
        return Choice(None, missing, missing, source=option.release.source) if wanted else None
    kit, lacking = _toolkit(option, profile)
    if kit is not None:
        limit = f"the host's gcc is not newer than {newest_gcc(kit.version)}, the limit of nvcc {kit.version}"
        return Choice(
            FlashInferPlan(version=version, kernels="compiled", toolkit=kit.path),
            f"nvcc {kit.version} of the host compiles the kernels of FlashInfer {version} at first use",
            assumed=limit if profile.gcc is None else None,
        )
    if not wanted:
        off = FlashInferPlan(version=version, kernels="off")
        return Choice(off, f"{lacking} for FlashInfer {version}: vLLM samples without it")
    return _prebuilt_flashinfer(version, option, profile, lacking)


def _toolkit(option: BuildOption, profile: HostProfile) -> tuple[Toolkit | None, str]:
    """Return the newest complete CUDA toolkit of the build's major whose nvcc accepts the host's gcc, or what the newest lacks."""
    major = numbers(cuda_of(option.variant) or "0")[0]
    lacking: list[str] = []
    for kit in reversed([kit for kit in profile.toolkits or () if numbers(kit.version)[0] == major]):
        newest = newest_gcc(kit.version)
        if kit.lacks:
            lacking.append(f"{kit.path} has no {' and no '.join(kit.lacks)}")
        elif profile.gcc is not None and profile.gcc > newest:
            lacking.append(f"nvcc {kit.version} refuses gcc {profile.gcc} (it accepts up to {newest})")
        else:
            return kit, ""
    return None, lacking[0] if lacking else "the host has no nvcc of the build's CUDA major"


def newest_gcc(toolkit: str) -> int:
    """Return the newest gcc major that a toolkit's nvcc accepts. A minor without a row uses the row before it."""
    rows = sorted(catalog().host_compilers, key=lambda row: numbers(row.cuda))
    known = [row for row in rows if numbers(row.cuda) <= numbers(toolkit)]
    return (known[-1] if known else rows[0]).gcc


def _prebuilt_flashinfer(
    version: str, option: BuildOption, profile: HostProfile, lacking: str
) -> Choice[FlashInferPlan | None]:
    cuda = cuda_of(option.variant) or "0"
    known = sorted(catalog().flashinfer_kernels, key=lambda row: row.distribution)
    rows = [row for row in known if between(version, row.since, row.until)]
    short = [row for row in rows if numbers(cuda) < numbers(row.minimum_cuda)]
    if short or len({row.distribution for row in rows}) < len({row.distribution for row in known}):
        row = (short or known)[0]
        if profile.toolkits is None:
            needed = f"the host has an nvcc of CUDA {numbers(cuda)[0]} for the kernels of FlashInfer {version}"
            plan = FlashInferPlan(version=version, kernels="compiled")
            return Choice(plan, needed, assumed=needed, source=row.source)
        why = f"FlashInfer {version} compiles its kernels, and {lacking}"
        return Choice(None, why, f"{why}; prebuilt kernels need CUDA {row.minimum_cuda} or newer", source=row.source)
    packages = tuple(
        KernelPackage(
            distribution=row.distribution,
            version=version,
            index=row.index.format(variant=option.variant) if row.index else None,
        )
        for row in rows
    )
    names = " and ".join(f"{package.distribution} {version}" for package in packages)
    plan = FlashInferPlan(version=version, kernels="prebuilt", packages=packages)
    return Choice(plan, f"{names} contain the prebuilt kernels, in FlashInfer's version", source=rows[-1].source)
