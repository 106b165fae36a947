"""A second opinion on a Stack: reads the tables itself and shares no code with the rules."""

import tomllib
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from provision.core.models.facts import HostFacts
from provision.core.models.stack import DriverPlan, Stack

TABLES = Path(__file__).resolve().parents[2] / "provision" / "catalog"


def table(name: str) -> dict[str, list[dict[str, Any]]]:
    return tomllib.loads((TABLES / f"{name}.toml").read_text(encoding="utf-8"))


VLLM = {row["version"]: row for row in table("vllm")["release"]}
BUILDS = {(row["version"], row["variant"], row["provider"]): row for row in table("vllm_builds")["build"]}
TORCH = {row["version"]: row for row in table("torch")["torch"]}
ARCHS = table("torch")["arch"]
CUDA = table("cuda")
GENERATION_4 = table("flash_attn")["generation_4"]
FLASH = {row["version"]: row for row in table("flash_attn")["wheel"]}
COMMUNITY = table("flash_attn")["community"]
FLASH_COMPILERS = table("attention")["flash_compiler"]
LAST_BRANCH = {row["compute_capability"]: row.get("last_branch") for row in table("gpus")["architecture"]}
CARDS = {row["name"].lower(): row for row in table("gpus")["nvidia"]}


def tuple_of(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def broken(stack: Stack, facts: HostFacts) -> list[str]:
    """Return the problems of a Stack on a host; empty if there are none. Unknown facts are not checked."""
    problems = []
    torch = TORCH[stack.torch.version]
    python = stack.interpreter.version + (".0" if stack.interpreter.version.count(".") == 1 else "")
    if stack.python not in torch["pythons"]:
        problems.append(f"torch has no wheel for {stack.python}")
    if stack.vllm:
        problems += _vllm(stack, facts, python, torch)
    if facts.os.libc == "musl":
        problems.append("musl")
    if facts.os.libc_version and tuple_of(facts.os.libc_version) < tuple_of(torch["glibc"]):
        problems.append("glibc below torch's")
    if facts.container and stack.driver and stack.driver.action != "keep":
        problems.append("driver touched in a container")
    if stack.driver and stack.driver.action != "keep" and not _within_bounds(stack.driver):
        problems.append(f"driver {stack.driver.version} is outside its own bounds")
    if stack.fabric_manager and stack.driver and stack.fabric_manager != stack.driver.version:
        problems.append("fabric manager differs from the driver")
    if stack.subnet_manager and not stack.fabric_manager:
        problems.append("a subnet manager without a fabric manager")
    problems += _package(stack, facts, torch)
    problems += _flashinfer(stack)
    if facts.nvidia and facts.nvidia.gpus:
        problems += _cards(stack, facts)
    return problems


def _vllm(stack: Stack, facts: HostFacts, python: str, torch: dict[str, Any]) -> list[str]:
    assert stack.vllm is not None
    row = VLLM[stack.vllm.version]
    default = f"cu{row['cuda'].replace('.', '')}"
    build = BUILDS.get((stack.vllm.version, stack.vllm.variant, stack.vllm.provider), row)
    problems = []
    if stack.vllm.variant != default and build is row:
        problems.append("a build that is in no table")
    if python not in SpecifierSet(row["python"]):
        problems.append(f"Python {python} outside {row['python']}")
    if build.get("python_only") and stack.python != build["python_only"]:
        problems.append(f"built for {build['python_only']} only")
    if build.get("torch", row["torch"]) != torch["version"]:
        problems.append("torch is not the pinned one")
    if facts.os.libc_version and tuple_of(facts.os.libc_version) < tuple_of(build["glibc"]):
        problems.append("glibc below the build's")
    if facts.os.machine and facts.os.machine not in build["machines"]:
        problems.append("no wheel for the architecture")
    if stack.vllm.variant.startswith("cu") and stack.torch.variant[:4] != stack.vllm.variant[:4]:
        problems.append("CUDA majors differ")
    return problems


def _package(stack: Stack, facts: HostFacts, torch: dict[str, Any]) -> list[str]:
    package = stack.flash_attn.package
    if package is None:
        return []
    minor = ".".join(torch["version"].split(".")[:2])
    cuda = f"cu{stack.torch.variant[2:4]}"
    name = f"flash_attn-{package.version}+{{}}torch{minor}cxx11abi{str(torch['cxx11_abi']).upper()}-cp{stack.python.replace('.', '')}-"
    if package.distribution == "flash-attn-4":
        return _generation_4(stack, facts)
    if package.community:
        return _community(stack, facts, minor)
    problems = []
    tag = cuda if stack.torch.variant.startswith("cu") else stack.torch.variant.replace(".", "")
    if not package.file.startswith(name.format(tag)):
        problems.append(f"{package.file} is not of this torch, Python and ABI")
    if (package.builder is None) != (package.source == "wheel"):
        problems.append("a published wheel has a builder, or a built one has none")
    if package.source == "wheel":
        row = FLASH[package.version]
        if minor not in row["torch"] or cuda not in row["cuda"] or stack.python not in row["pythons"]:
            problems.append(f"no such wheel of flash-attn {package.version} was published")
        if f"{minor}/{stack.python}" in row["without"] or (facts.os.machine or "x86_64") not in row["machines"]:
            problems.append(f"no such wheel of flash-attn {package.version} was published")
        if facts.os.libc_version and tuple_of(facts.os.libc_version) < tuple_of(row["glibc"]):
            problems.append("glibc below flash-attn's")
    return problems


def _generation_4(stack: Stack, facts: HostFacts) -> list[str]:
    package = stack.flash_attn.package
    assert package is not None
    if stack.vllm is None or facts.nvidia is None:
        return ["flash-attn-4 without vLLM or NVIDIA GPUs"]
    release = tuple_of(stack.vllm.version)
    for row in GENERATION_4:
        until = tuple_of(row.get("until") or stack.vllm.version)
        if row["version"] == package.version and tuple_of(row["since"]) <= release <= until:
            majors = {
                tuple_of(CARDS[(gpu.name or "").lower()]["compute_capability"])[0]
                for gpu in facts.nvidia.gpus
                if gpu.index in stack.gpus and (gpu.name or "").lower() in CARDS
            }
            fits = majors <= set(row["majors"]) and stack.vllm.variant.startswith("cu13")
            return [] if fits else ["flash-attn-4 is not for these GPUs"]
    return [f"flash-attn-4 {package.version} is not for vLLM {stack.vllm.version}"]


def _community(stack: Stack, facts: HostFacts, torch: str) -> list[str]:
    package = stack.flash_attn.package
    assert package is not None
    python = f"cp{stack.python.replace('.', '')}"
    for row in COMMUNITY:
        name = f"flash_attn-{row['version']}+{row['variant']}torch{torch}-{python}-{python}-{row['platform']}.whl"
        if name == package.file and row["repository"] == package.community:
            fits = torch in row["torch"] and stack.python in row["pythons"]
            fits &= row["variant"][:4] == stack.torch.variant[:4] and row["variant"] <= stack.torch.variant
            fits &= (facts.os.machine or "x86_64") in row["machines"]
            fits &= not facts.os.libc_version or tuple_of(facts.os.libc_version) >= tuple_of(row["glibc"])
            return [] if fits else [f"{package.file} is not for this Stack"]
    return [f"nobody publishes {package.file}"]


def _flashinfer(stack: Stack) -> list[str]:
    plan = stack.flashinfer
    wants = stack.attention.backend == "FLASHINFER"
    if plan is None:
        return ["FlashInfer serves and is not there"] if wants else []
    problems = []
    if stack.vllm is None or VLLM[stack.vllm.version].get("flashinfer") != plan.version:
        problems.append("FlashInfer is not the pinned one")
    if any(package.version != plan.version for package in plan.packages):
        problems.append("FlashInfer's kernels are of another version")
    if wants and plan.kernels == "off":
        problems.append("FlashInfer serves without kernels")
    return problems


def _within_bounds(plan: DriverPlan) -> bool:
    if not (plan.at_least and plan.version and plan.below):
        return False
    return tuple_of(plan.at_least) <= tuple_of(plan.version) < tuple_of(plan.below)


def _cards(stack: Stack, facts: HostFacts) -> list[str]:
    assert facts.nvidia is not None
    problems = []
    driver = tuple_of(stack.driver.version) if stack.driver and stack.driver.version else None
    if stack.cuda_compat:
        if any(CARDS[(gpu.name or "").lower()]["kind"] != "data-centre" for gpu in facts.nvidia.gpus):
            problems.append("compatibility libraries on a GPU that does not take them")
        driver = next(tuple_of(row["driver"]) for row in CUDA["toolkit"] if row["version"] == stack.cuda_compat.cuda)
    major = int(stack.torch.variant[2:4])
    floor = next(tuple_of(row["driver"]) for row in CUDA["major"] if row["major"] == major)
    if driver and driver < floor:
        problems.append(f"driver below the floor of CUDA {major}")
    for gpu in (card for card in facts.nvidia.gpus if card.index in stack.gpus):
        row = CARDS.get((gpu.name or "").lower())
        if row is None:
            continue
        capability = tuple_of(row["compute_capability"])
        last = LAST_BRANCH[row["compute_capability"]]
        if driver and last and driver[0] > last:
            problems.append(f"branch {driver[0]} does not drive {gpu.name}")
        if stack.attention.backend == "FLASH_ATTN" and capability < (8, 0):
            problems.append(f"flash kernels on {gpu.name}")
        if stack.attention.generation == 4 and driver:
            compilers = [row for row in FLASH_COMPILERS if row["extension"] == "fa4" and row["major"] == major]
            problems += [f"{row['name']} takes no such driver" for row in compilers if driver < tuple_of(row["driver"])]
        for part, codes, cuda in _launched(stack, capability[0]):
            problems += _code(part, codes, cuda, capability, driver)
    return problems


def _launched(stack: Stack, major: int) -> list[tuple[str, list[str], str]]:
    torch_cuda = f"{stack.torch.variant[2:4]}.{stack.torch.variant[4:]}"
    codes = next(
        row["codes"]
        for row in ARCHS
        if row["variant"] == stack.torch.variant
        and tuple_of(row["since"]) <= tuple_of(stack.torch.version) <= tuple_of(row["until"])
    )
    parts = [("torch", codes, torch_cuda)]
    if stack.vllm:
        row = VLLM[stack.vllm.version]
        cuda = f"{stack.vllm.variant[2:4]}.{stack.vllm.variant[4:]}"
        parts.append(("core", row["core"], cuda))
        generation = stack.attention.generation
        if generation in {2, 3} and row.get(f"fa{generation}"):
            parts.append((f"fa{generation} on {major}.x", row[f"fa{generation}"], cuda))
    return parts


def _code(part: str, codes: list[str], cuda: str, card: tuple[int, ...], driver: tuple[int, ...] | None) -> list[str]:
    native = any(code[0] != "p" and int(code[:-1]) == card[0] and int(code[-1]) <= card[1] for code in codes)
    if native:
        return []
    if not any(code[0] == "p" and (int(code[1:-1]), int(code[-1])) <= card for code in codes):
        return [f"{part} has no code for {card}"]
    floor = next(tuple_of(row["driver"]) for row in CUDA["toolkit"] if row["version"] == cuda)
    return [f"{part} is PTX of {cuda} for {card}, the driver is older"] if driver and driver < floor else []
