"""libraries.loaded: origin of the shared libraries in use."""

import ctypes
import os
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from verify.binaries.distributions import all_extensions, compat_folder, host_packages, site_files
from verify.host.views import torch_view
from verify.records import CheckContext, CheckResult, Figure, Observation, combine
from verify.tables import table

SHIPPED = ("torch/lib/*.so*", "nvidia/*/lib/*.so*", "*.libs/*.so*")
"""Libraries of wheels."""


def run(context: CheckContext) -> CheckResult:
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
    outcome = evaluate(loaded, homes=homes, search_path=shadowing, compat=planned, bundled=bundled)
    loaded_with = ["torch", *(extension.name for extension in extensions)]
    return replace(outcome, evidence={**outcome.evidence, "loaded with": loaded_with})


def mapped_libraries(maps: str) -> list[Path]:
    """Return the shared libraries of a /proc/PID/maps, sorted by name."""
    paths = {line.split(maxsplit=5)[5] for line in maps.splitlines() if len(line.split(maxsplit=5)) == 6}
    return sorted(Path(path) for path in paths if path.startswith("/") and ".so" in Path(path).name)


def _name(library: Path) -> str:
    return library.name.partition(".so")[0].partition("-")[0]  # auditwheel appends a hash after a dash


def evaluate(
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
