"""devices.driver: releases of the driver's kernel module and libraries."""

import ctypes
import re
from collections.abc import Mapping
from pathlib import Path

from verify.checks.libraries.loaded import mapped_libraries
from verify.host.card_health import skip_without_cards
from verify.host.views import nvml
from verify.host.views.kernel_driver import FOLDER, release
from verify.records import CheckContext, CheckResult
from verify.tables import table

LIBRARIES = ("libcuda", "libnvidia-ml")


def run(context: CheckContext) -> CheckResult:
    if "stale-library" in context.faults:
        return evaluate("580.82.07", {"libcuda": Path("/usr/lib/libcuda.so.570.133.20")}, {})
    if skipped := skip_without_cards(context):
        return skipped
    missing = {name: why for name in LIBRARIES if (why := _refusal(name))}
    mapped = mapped_libraries(Path("/proc/self/maps").read_text())
    found = {name: path for path in mapped for name in LIBRARIES if path.name.startswith(f"{name}.so")}
    # Sandboxes hide the module's files; NVML would not start without a module.
    return evaluate(release(FOLDER) or nvml.release(), found, missing)


def _refusal(name: str) -> str | None:
    """Load a library as torch does, which touches no device; return the error, None if it loads."""
    try:
        ctypes.CDLL(f"{name}.so.1")
    except OSError as error:
        return str(error)
    return None


def evaluate(kernel: str | None, libraries: Mapping[str, Path], missing: Mapping[str, str]) -> CheckResult:
    """Compare the release of the loaded module (None: none is loaded) with those of the libraries."""
    stand_in = table("libraries")["library"]["libcuda"]["shadow"]
    releases = {name: _release(path) for name, path in libraries.items() if stand_in not in str(path)}
    evidence = {"kernel module": kernel, "libraries": {name: str(path) for name, path in libraries.items()}, **missing}
    if kernel is None:
        remedy = "modprobe nvidia; dmesg shows why it fails"
        return CheckResult("fail", "no NVIDIA kernel module is loaded", (), evidence, remedy)
    if missing:
        details = "; ".join(f"{name}: {why}" for name, why in missing.items())
        text = f"the driver's libraries do not load: {details}"
        return CheckResult("fail", text, (), evidence, "install the complete driver")
    other = [f"{libraries[name]} is of {own}" for name, own in releases.items() if own not in (None, kernel)]
    if other:
        text = f"the loaded kernel module is {kernel}, and {'; '.join(other)}"
        remedy = "reboot to load the module of the installed release; restart a container"
        return CheckResult("fail", text, (), evidence, remedy)
    details = ", ".join(name for name, own in releases.items() if own) or "no library names its release"
    return CheckResult("ok", f"kernel module {kernel}, and of the same release: {details}", (), evidence)


def _release(library: Path) -> str | None:
    """Return `580.82.07` for `libcuda.so.580.82.07`; None if the file name has no release."""
    found = re.search(r"\.so\.(\d+(?:\.\d+)+)$", library.name)
    return found[1] if found else None
