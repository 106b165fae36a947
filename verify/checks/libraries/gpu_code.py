"""libraries.gpu_code: GPU architectures that the libraries were compiled for."""

from collections.abc import Mapping

from verify.binaries.distributions import host_packages, site_files
from verify.binaries.gpu_code import compiled_for, native_for, read_codes
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
    return evaluate(capability, codes)


def evaluate(capability: str, codes: Mapping[str, Mapping[str, set[str]]]) -> CheckResult:
    """Evaluate the codes of each owner's libraries, by file (see verify/binaries/gpu_code.py). An owner without code is not evaluated."""
    observations, native = [], []
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
    }
    if not codes:
        return CheckResult("error", "cannot tell: no library with GPU code was found", (), evidence)
    return combine(
        observations, f"libraries with code for {capability}: {', '.join(native) or 'none'}", figures, evidence
    )
