"""devices.driver: the kernel module and the libraries of the driver are of one release."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping
from pathlib import Path

from verify.card_health import skip_without_cards
from verify.checks.libraries.loaded import mapped_libraries
from verify.records import Check, CheckContext, CheckResult
from verify.tables import table
from verify.views import nvml
from verify.views.kernel_driver import FOLDER, release

LIBRARIES = ("libcuda", "libnvidia-ml")


def _run(context: CheckContext) -> CheckResult:
    if "stale-library" in context.faults:
        return evaluate("580.82.07", {"libcuda": Path("/usr/lib/libcuda.so.570.133.20")}, {})
    if skipped := skip_without_cards(context):
        return skipped
    missing = {name: why for name in LIBRARIES if (why := _refusal(name))}
    mapped = mapped_libraries(Path("/proc/self/maps").read_text())
    found = {name: path for path in mapped for name in LIBRARIES if path.name.startswith(f"{name}.so")}
    # Sandboxes hide the module's own files; NVML would not start without one.
    return evaluate(release(FOLDER) or nvml.release(), found, missing)


def _refusal(name: str) -> str | None:
    """Load a library as torch does, which touches no device: why it does not load, null when it does."""
    try:
        ctypes.CDLL(f"{name}.so.1")
    except OSError as error:
        return str(error)
    return None


def evaluate(kernel: str | None, libraries: Mapping[str, Path], missing: Mapping[str, str]) -> CheckResult:
    """`kernel` is the loaded module's release, null where none is loaded; `missing` says why a library does not load."""
    stand_in = table("libraries")["library"]["libcuda"]["shadow"]
    releases = {name: _release(path) for name, path in libraries.items() if stand_in not in str(path)}
    evidence = {"kernel module": kernel, "libraries": {name: str(path) for name, path in libraries.items()}, **missing}
    if kernel is None:
        return CheckResult(
            "fail", "no kernel module of NVIDIA is loaded", (), evidence, "modprobe nvidia; dmesg says why not"
        )
    if missing:
        told = "; ".join(f"{name}: {why}" for name, why in missing.items())
        return CheckResult(
            "fail", f"the driver's libraries do not load: {told}", (), evidence, "install the driver whole"
        )
    other = [f"{libraries[name]} is of {own}" for name, own in releases.items() if own not in (None, kernel)]
    if other:
        text = f"the loaded kernel module is of {kernel}, and {'; '.join(other)}"
        remedy = "reboot, so that the module of the installed release is loaded; in a container: restart it"
        return CheckResult("fail", text, (), evidence, remedy)
    told = ", ".join(name for name, own in releases.items() if own) or "no library that names its release"
    return CheckResult("ok", f"kernel module {kernel}, and of the same release: {told}", (), evidence)


def _release(library: Path) -> str | None:
    """`580.82.07` of `libcuda.so.580.82.07`; null where the file's name says none."""
    found = re.search(r"\.so\.(\d+(?:\.\d+)+)$", library.name)
    return found[1] if found else None


CHECK = Check(
    id="devices.driver",
    description="NVIDIA's kernel module is loaded, and libcuda and NVML are of exactly its release.",
    run=_run,
    faults=("stale-library",),
)
