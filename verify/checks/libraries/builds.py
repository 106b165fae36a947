"""libraries.torch_build, lock, gpu_code and loaded: the builds that are installed, what they fit, and the origin of those in use."""

import ctypes
import os
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from verify.binaries.distributions import (
    all_extensions,
    compat_folder,
    host_packages,
    installed,
    parse_lock,
    same_version,
    site_files,
)
from verify.binaries.elf import compiled_for, native_for, read_codes
from verify.host.devices import architecture
from verify.host.views import torch_view
from verify.records import CheckContext, CheckResult, Figure, Observation, combine, first_few
from verify.tables import table

AGAIN = "reinstall the environment from its lock: ./firstlight provision"


def torch_build(context: CheckContext) -> CheckResult:
    if context.torch_problem:
        remedy = f"the message names the missing library or symbol; {AGAIN}"
        return CheckResult("fail", f"torch does not import: {context.torch_problem}", remedy=remedy)
    torch = torch_view.load()
    version = "0.0.0+stale" if "stale-library" in context.faults else str(torch.__version__)
    planned = context.stack.get("torch") or ({"version": "1.0.0"} if "stale-library" in context.faults else {})
    built_for = {"cuda": torch.version.cuda, "hip": torch.version.hip}
    file, taken_over = Path(torch.__file__), (context.stack.get("interpreter") or {}).get("torch")
    return evaluate_torch(
        version, planned.get("version"), planned.get("variant"), file, built_for, taken_over=taken_over
    )


def evaluate_torch(
    version: str,
    planned: str | None,
    variant: str | None,
    file: Path,
    built_for: dict[str, str | None],
    *,
    taken_over: str | None = None,
) -> CheckResult:
    """Compare torch with the planned release (without local part) and variant (`cpu`, `cu130`, `rocm7.0`), if there is a plan.

    `taken_over` is the version of the host's own torch, if the Stack uses it.
    """
    evidence = {"version": version, "file": str(file), **built_for}
    if taken_over is not None and version != taken_over:
        text = f"torch of the host is {version}, and the plan was planned for {taken_over}"
        return CheckResult("fail", text, evidence=evidence, remedy="plan again: ./firstlight provision")
    if taken_over is None and Path(sys.prefix).resolve() not in file.resolve().parents:
        text = f"torch comes from {file.parent}, outside the environment {sys.prefix}"
        return CheckResult("fail", text, evidence=evidence, remedy="unset PYTHONPATH")
    if planned and version.partition("+")[0] != planned:
        return CheckResult("fail", f"torch is {version}, and the plan has {planned}", evidence=evidence)
    cuda, hip = ((built_for[kind] or "").split(".")[:2] for kind in ("cuda", "hip"))
    actual = f"cu{''.join(cuda)}" if built_for["cuda"] else f"rocm{'.'.join(hip)}" if built_for["hip"] else "cpu"
    if variant and variant != actual:
        text = f"torch is built for {actual}, and the plan has {variant}"
        return CheckResult("fail", text, evidence=evidence, remedy=AGAIN)
    return CheckResult("ok", f"torch {version}, built for {actual}", evidence=evidence)


SHOWN_LOCKED = 5


def lock(context: CheckContext) -> CheckResult:
    if context.lock is None:
        return CheckResult("error", "no lock")
    locked = parse_lock(context.lock.read_text())
    if "wrong-lock" in context.faults:
        locked = {**locked, next(iter(locked), "torch"): "0.0.0"}
    here = {name: [distribution.version for distribution in found] for name, found in installed().items()}
    return evaluate_lock(locked, here, str(context.lock))


def evaluate_lock(locked: Mapping[str, str], here: Mapping[str, Sequence[str]], source: str) -> CheckResult:
    """Compare names and versions. Several installed versions of one name are a failure."""
    twice = [f"{name} {' and '.join(versions)}" for name, versions in here.items() if len(versions) > 1]
    missing = sorted(set(locked) - set(here))
    extra = sorted(set(here) - set(locked))
    other = [
        f"{name} {here[name][0]}, locked {version}"
        for name, version in locked.items()
        if name in here and not same_version(here[name][0], version)
    ]
    figures = (Figure("distributions locked", len(locked), "count"), Figure("installed", len(here), "count"))
    faults = {"installed twice": twice, "another version": other, "missing": missing, "not in the lock": extra}
    details = [f"{kind}: {first_few(names, SHOWN_LOCKED, separator=', ')}" for kind, names in faults.items() if names]
    evidence = {"lock": source, **{kind: names for kind, names in faults.items() if names}}
    if not locked:
        return CheckResult("error", f"{source} locks nothing", figures, evidence)
    observations = [Observation("fail", text, AGAIN) for text in details]
    return combine(observations, f"all {len(locked)} distributions match the lock", figures, evidence)


OTHER_BUILDS = "install builds that name this GPU's architecture: ./firstlight plan --explain"


def gpu_code(context: CheckContext) -> CheckResult:
    if "stale-library" in context.faults:
        return evaluate_gpu_code("12.0", {"torch": {"libtorch_cuda.so": {"80", "90a"}}})
    if context.device in (None, "cpu"):
        return CheckResult("skip", "there is no GPU")
    generation = (context.stack.get("attention") or {}).get("generation")
    fallback = host_packages(context.stack)
    capability = architecture(str(context.device))
    major = capability.partition(".")[0]
    codes: dict[str, dict[str, set[str]]] = {}
    for row in table("libraries")["gpu_code"]:
        if row.get("generation") not in (None, generation) or major not in row.get("majors", [major]):
            continue
        found = site_files(row["globs"], fallback=fallback)
        embedded = {str(path): code for path in found if (code := read_codes(path)) is not None}
        if embedded:
            codes[row["owner"]] = embedded
    homes = {Path(sys.prefix).resolve(), *filter(None, [fallback])}
    loaded = [path for path in mapped_libraries(Path("/proc/self/maps").read_text()) if homes & set(path.parents)]
    return evaluate_gpu_code(capability, codes, _others(capability, loaded, codes), [str(path) for path in loaded])


def _others(
    capability: str, loaded: Collection[Path], codes: Mapping[str, Mapping[str, set[str]]]
) -> dict[str, set[str] | str]:
    """Return the codes of the environment's other libraries, or what is wrong with a file. AMD's would have to be read whole."""
    if capability.startswith("gfx"):
        return {}
    known = {Path(path).resolve() for libraries in codes.values() for path in libraries}
    files = {path.resolve() for path in [*site_files(["**/*.so", "**/*.so.*"]), *loaded]} - known
    return {str(path): code for path in sorted(files) if (code := _codes_or_problem(path))}


def _codes_or_problem(path: Path) -> set[str] | str | None:
    try:
        return read_codes(path)
    except (OSError, ValueError) as error:
        return str(error)


def evaluate_gpu_code(
    capability: str,
    codes: Mapping[str, Mapping[str, set[str]]],
    others: Mapping[str, set[str] | str] | None = None,
    loaded: Collection[str] = (),
) -> CheckResult:
    """Compare the code of libraries with that of a GPU. An owner without code is not evaluated.

    `codes` are those of each owner's libraries by file (see verify/binaries/elf.py), `others` those of files without an owner,
    or what is wrong with a file. They are evidence, as many are made for some GPUs only; the reason names those that torch has `loaded`.
    """
    observations, native = [], []
    for path, code in (others or {}).items():
        lacks = isinstance(code, set) and not native_for(code, capability) and not compiled_for(code, capability)
        if lacks and path in loaded:
            text = f"{path}, which torch loads, has no code for {capability} (it has {', '.join(sorted(code))})"
            observations.append(Observation("ok", text))
    for owner, libraries in codes.items():
        found = set().union(*libraries.values())
        listed = ", ".join(sorted(found))
        if native_for(found, capability):
            native.append(owner)
            observations += [
                Observation(
                    "warn", f"{path} has no code for {capability} (it has {', '.join(sorted(code))})", OTHER_BUILDS
                )
                for path, code in libraries.items()
                if code and not native_for(code, capability) and not compiled_for(code, capability)
            ]
        elif not found:
            observations.append(Observation("ok", f"the code of {owner} is packed, so its targets cannot be read"))
        elif compiled_for(found, capability):
            text = f"{owner} has no code for {capability}, only PTX that the driver compiles at first use ({listed})"
            observations.append(Observation("warn", text, OTHER_BUILDS))
        else:
            text = f"{owner} has no code for {capability} (it has {listed})"
            observations.append(Observation("fail", text, OTHER_BUILDS))
    figures = (Figure("owners with code for this GPU", len(native), "count", floor=len(codes)),)
    evidence = {
        "capability": capability,
        "codes": {owner: sorted(set().union(*libraries.values())) for owner, libraries in codes.items()},
        "files": {owner: list(libraries) for owner, libraries in codes.items()},
        "other files": {path: code if isinstance(code, str) else sorted(code) for path, code in (others or {}).items()},
    }
    if not codes:
        return CheckResult("error", "cannot tell: no library with GPU code was found", (), evidence)
    healthy = f"libraries with code for {capability}: {', '.join(native) or 'none'}"
    return combine(observations, healthy, figures, evidence)


SHIPPED = ("torch/lib/*.so*", "nvidia/*/lib/*.so*", "*.libs/*.so*")
"""Libraries of wheels."""


def loaded(context: CheckContext) -> CheckResult:
    torch_view.load()  # with its libraries
    extensions = all_extensions()
    try:
        for extension in extensions:
            ctypes.CDLL(str(extension))  # its names are added, as an import does
    except OSError as error:  # the loader's message names the missing library or symbol
        evidence, rows = {"files": [str(extension) for extension in extensions]}, table("libraries")["remedy"]
        remedy = next((row["do"] for row in rows if row["pattern"] in str(error)), rows[-1]["do"])
        return CheckResult("fail", f"vLLM's kernels do not load: {error}", (), evidence, remedy)
    with suppress(OSError):
        ctypes.CDLL("libcuda.so.1")  # torch loads the driver's library at first use; the same search finds it now
    loaded = mapped_libraries(Path("/proc/self/maps").read_text())
    if "stale-library" in context.faults:
        loaded = [*loaded, Path("/usr/local/stale/lib/libtorch_cpu.so")]
    shadowing = os.environ.get("LD_LIBRARY_PATH", "")
    planned = compat_folder(context.expect.get("stack"))
    of_the_host = host_packages(context.stack)
    homes = [Path(sys.prefix).resolve(), *filter(None, [of_the_host])]
    shipped = site_files(SHIPPED) + [path for each in SHIPPED if of_the_host for path in of_the_host.glob(each)]
    bundled = frozenset(map(_name, shipped))
    outcome = evaluate_loaded(loaded, homes=homes, search_path=shadowing, compat=planned, bundled=bundled)
    loaded_with = ["torch", *(extension.name for extension in extensions)]
    return replace(outcome, evidence={**outcome.evidence, "loaded with": loaded_with})


def mapped_libraries(maps: str) -> list[Path]:
    """Return the shared libraries of a /proc/PID/maps, sorted by name."""
    paths = {line.split(maxsplit=5)[5] for line in maps.splitlines() if len(line.split(maxsplit=5)) == 6}
    return sorted(Path(path) for path in paths if path.startswith("/") and ".so" in Path(path).name)


def _name(library: Path) -> str:
    return library.name.partition(".so")[0].partition("-")[0]  # auditwheel appends a hash after a dash


def evaluate_loaded(
    loaded: Iterable[Path],
    *,
    homes: Sequence[Path],
    search_path: str,
    compat: str | None = None,
    bundled: Collection[str] | None = None,
) -> CheckResult:
    """Compare the origin of the loaded libraries with the expected one.

    `homes` are the folders of the environment and of a planned torch of the host, without symlinks; `compat` is the folder that
    libcuda must come from. Only what the environment has, `bundled` (None for all), can be shadowed by the `search_path`.
    """
    rows: Mapping[str, dict[str, str]] = table("libraries")["library"]
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in loaded:
        name = _name(path)
        if name in rows:
            by_name[name].append(path)
    own = {
        name for name, row in rows.items() if row["origin"] == "environment" and (bundled is None or name in bundled)
    }
    foreign = [
        f"{name} from {path}"
        for name, paths in by_name.items()
        for path in paths
        if name in own and not set(homes) & set(path.parents)
    ]
    twice = [f"{name}: {', '.join(map(str, paths))}" for name, paths in by_name.items() if len(paths) > 1]
    outside = [Path(each) for each in filter(None, search_path.split(":"))]
    outside = [folder for folder in outside if not set(homes) & set(folder.resolve().parents)]
    shadows = [str(path) for folder in outside for name in sorted(own) for path in sorted(folder.glob(f"{name}.so*"))]
    evidence = {name: [str(path) for path in paths] for name, paths in sorted(by_name.items())}
    figures = (Figure("libraries evaluated", sum(map(len, by_name.values())), "count"),)
    if not by_name:
        return CheckResult("error", "none of the evaluated libraries is loaded", figures, evidence)
    observations = list(_driver_libraries(by_name, rows, compat))
    if foreign:
        text = f"loaded from outside the environment: {'; '.join(foreign)}"
        observations.append(Observation("fail", text, "unset LD_LIBRARY_PATH and LD_PRELOAD"))
    if shadows:
        text = f"LD_LIBRARY_PATH can shadow the environment's libraries: {', '.join(shadows)}"
        observations.append(Observation("warn", text, "unset LD_LIBRARY_PATH"))
    if twice:
        observations.append(Observation("warn", f"loaded more than once: {'; '.join(twice)}"))
    healthy = f"{len(by_name)} libraries come from the expected folders, each once"
    return combine(observations, healthy, figures, evidence)


def _driver_libraries(
    by_name: Mapping[str, list[Path]], rows: Mapping[str, dict[str, str]], compat: str | None
) -> Iterator[Observation]:
    """Report driver libraries that are not the host's own, or not the compatibility library that is planned."""
    for name, path in ((name, path) for name, paths in by_name.items() for path in paths if "shadow" in rows[name]):
        if str(path.parent) == compat:
            continue
        if rows[name]["shadow"] in str(path):
            text = f"a stub shadows the driver's own library: {name} from {path}"
            yield Observation("warn", text, rows[name]["remedy"])
        elif compat:
            text = f"{name} from {path}, and the plan requires the compatibility libraries of {compat}"
            yield Observation("fail", text, "install them again: ./firstlight drivers")
