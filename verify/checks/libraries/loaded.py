"""libraries.loaded: the shared libraries that run are the environment's own."""

from __future__ import annotations

import ctypes
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from verify.records import Check, Context, Figure, Outcome
from verify.tables import table
from verify.vllm_kernels import vllm_extensions


def _run(context: Context) -> Outcome:
    import torch

    extensions = vllm_extensions()
    try:
        for extension in extensions:
            torch.ops.load_library(str(extension))
    except OSError as error:  # the loader's own text names the library or symbol that is missing
        evidence = {"files": [str(extension) for extension in extensions]}
        return Outcome("fail", f"vLLM's kernels do not load: {error}", (), evidence, _remedy(str(error)))
    with suppress(OSError):
        ctypes.CDLL("libcuda.so.1")  # torch loads the driver's library at first use: the same search finds it now
    loaded = mapped_libraries(Path("/proc/self/maps").read_text())
    if "stale-library" in context.faults:
        loaded = [*loaded, Path("/usr/local/stale/lib/libtorch_cpu.so")]
    shadowing = os.environ.get("LD_LIBRARY_PATH", "")
    outcome = judge(loaded, home=Path(sys.prefix).resolve(), search_path=shadowing)
    evidence = {**outcome.evidence, "loaded with": ["torch", *(extension.name for extension in extensions)]}
    return Outcome(outcome.status, outcome.reason, outcome.figures, evidence, outcome.remedy)


def mapped_libraries(maps: str) -> list[Path]:
    """The shared libraries of a /proc/PID/maps, each once, in the order of their names."""
    paths = {line.split(maxsplit=5)[5] for line in maps.splitlines() if len(line.split(maxsplit=5)) == 6}
    return sorted(Path(path) for path in paths if path.startswith("/") and ".so" in Path(path).name)


def judge(loaded: Iterable[Path], *, home: Path, search_path: str) -> Outcome:
    """`home` is the environment's folder without symlinks, `search_path` what LD_LIBRARY_PATH holds."""
    rows: Mapping[str, dict[str, str]] = table("libraries")["library"]
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in loaded:
        name = path.name.partition(".so")[0].partition("-")[0]  # auditwheel puts a hash behind a dash
        if name in rows:
            by_name[name].append(path)
    foreign = [
        f"{name} from {path}"
        for name, paths in by_name.items()
        for path in paths
        if rows[name]["origin"] == "environment" and home not in path.parents
    ]
    twice = [f"{name}: {', '.join(map(str, paths))}" for name, paths in by_name.items() if len(paths) > 1]
    stand_ins = [
        (f"{name} from {path}", rows[name]["remedy"])
        for name, paths in by_name.items()
        for path in paths
        if "shadow" in rows[name] and rows[name]["shadow"] in str(path)
    ]
    shadows = [str(path) for path in _shadows(search_path, rows, home)]
    evidence = {name: [str(path) for path in paths] for name, paths in sorted(by_name.items())}
    figures = (Figure("libraries judged", sum(map(len, by_name.values())), "count"),)
    if foreign:
        text = f"loaded from outside the environment: {'; '.join(foreign)}"
        return Outcome("fail", text, figures, evidence, "unset LD_LIBRARY_PATH and LD_PRELOAD")
    if stand_ins:
        text = f"a stand-in shadows the driver's own library: {'; '.join(told for told, _ in stand_ins)}"
        return Outcome("warn", text, figures, evidence, stand_ins[0][1])
    if not by_name:
        return Outcome("error", "none of the libraries that are judged is loaded", figures, evidence)
    if shadows:
        text = f"LD_LIBRARY_PATH can shadow the environment's libraries: {', '.join(shadows)}"
        return Outcome("warn", text, figures, evidence, "unset LD_LIBRARY_PATH")
    if twice:
        return Outcome("warn", f"loaded more than once: {'; '.join(twice)}", figures, evidence)
    return Outcome("ok", f"{len(by_name)} libraries come from where they should, each once", figures, evidence)


def _remedy(text: str) -> str:
    rows: list[dict[str, str]] = table("libraries")["remedy"]
    return next((row["do"] for row in rows if row["pattern"] in text), rows[-1]["do"])


def _shadows(search_path: str, rows: Mapping[str, dict[str, str]], home: Path) -> Iterable[Path]:
    for folder in filter(None, search_path.split(":")):
        if home in Path(folder).resolve().parents:
            continue
        for name, row in rows.items():
            if row["origin"] == "environment":
                yield from sorted(Path(folder).glob(f"{name}.so*"))


CHECK = Check(
    id="libraries.loaded",
    proves="The libraries that torch and vLLM's kernels really load come from this environment, each once, unshadowed.",
    run=_run,
    level="standard",
    needs=("torch",),
    faults=("stale-library",),
)
