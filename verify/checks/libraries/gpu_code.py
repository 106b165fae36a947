"""libraries.gpu_code: GPU architectures that the libraries were compiled for."""

import sys
from collections.abc import Collection, Mapping
from pathlib import Path

from verify.binaries.distributions import host_packages, site_files
from verify.binaries.gpu_code import compiled_for, native_for, read_codes
from verify.checks.libraries.loaded import mapped_libraries
from verify.host.devices import architecture
from verify.records import CheckContext, CheckResult, Figure, Observation, combine
from verify.tables import table

AGAIN = "install builds that name this GPU's architecture: ./firstlight plan --explain"


def run(context: CheckContext) -> CheckResult:
    if "stale-library" in context.faults:
        return evaluate("12.0", {"torch": {"libtorch_cuda.so": {"80", "90a"}}})
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
    return evaluate(capability, codes, _others(capability, loaded, codes), [str(path) for path in loaded])


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


def evaluate(
    capability: str,
    codes: Mapping[str, Mapping[str, set[str]]],
    others: Mapping[str, set[str] | str] | None = None,
    loaded: Collection[str] = (),
) -> CheckResult:
    """Compare the code of libraries with that of a GPU. An owner without code is not evaluated.

    Args:
        capability: Compute capability, or AMD architecture.
        codes: Codes of each owner's libraries, by file (see verify/binaries/gpu_code.py).
        others: Codes of files without an owner, or what is wrong with a file. They are evidence: many are made for some GPUs only.
        loaded: Files that torch has loaded. The reason names those of `others` that have no code for this GPU.
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
                Observation("warn", f"{path} has no code for {capability} (it has {', '.join(sorted(code))})", AGAIN)
                for path, code in libraries.items()
                if code and not native_for(code, capability) and not compiled_for(code, capability)
            ]
        elif not found:
            observations.append(Observation("ok", f"the code of {owner} is packed, so its targets cannot be read"))
        elif compiled_for(found, capability):
            text = f"{owner} has no code for {capability}, only PTX that the driver compiles at first use ({listed})"
            observations.append(Observation("warn", text, AGAIN))
        else:
            observations.append(Observation("fail", f"{owner} has no code for {capability} (it has {listed})", AGAIN))
    figures = (Figure("owners with code for this GPU", len(native), "count", floor=len(codes)),)
    evidence = {
        "capability": capability,
        "codes": {owner: sorted(set().union(*libraries.values())) for owner, libraries in codes.items()},
        "files": {owner: list(libraries) for owner, libraries in codes.items()},
        "other files": {path: code if isinstance(code, str) else sorted(code) for path, code in (others or {}).items()},
    }
    if not codes:
        return CheckResult("error", "cannot tell: no library with GPU code was found", (), evidence)
    return combine(
        observations, f"libraries with code for {capability}: {', '.join(native) or 'none'}", figures, evidence
    )
