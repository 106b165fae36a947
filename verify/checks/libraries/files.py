"""libraries.files: content of the installed files. libraries.injected: code that runs in the interpreter although nobody installed it.

Files are compared with the manifest and the list of compiled byte code, which were written when the environment was built. Injected code is in
files that the manifest does not list, in what Python imports at each start, in modules in folders that are searched before the environment,
and in variables of processes.
"""

import hashlib
import os
import re
import site
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from verify.binaries import manifest
from verify.files import read_json, small_text
from verify.records import CheckContext, CheckResult, Figure, Observation, combine, first_few
from verify.runner import registry
from verify.serving import service_plan
from verify.serving.processes import read_all
from verify.tables import table

SHOWN = 5
REBUILD = "rebuild the environment from its wheels: ./firstlight provision"


def files(context: CheckContext) -> CheckResult:
    home, is_injected = Path(sys.prefix).resolve(), "stale-library" in context.faults
    contents = manifest.listed(home / manifest.MANIFEST, home)
    if contents is None and not is_injected:
        return CheckResult("skip", "this environment has no manifest to compare with", remedy="./firstlight provision")
    compiled, state = manifest.listed(home / manifest.BYTE_CODE_LIST, home) or {}, manifest.listing(home)
    contents = {**(contents or {}), **compiled}
    if is_injected:
        contents[f"{home}/pyvenv.cfg"] = manifest.Content("", 0)

    def is_right(path: str) -> bool:
        """Return whether byte code was deleted or compiled again, which it may be."""
        return path in compiled and (not Path(path).exists() or manifest.stands_for_source(path))

    found = manifest.compare(
        contents,
        home,
        None if context.faults else context.prefix,
        manifest.STAMPS,
        whole=context.includes("full"),
        always=manifest.mapped_files(home),
        excused=is_right,
    )
    figures = (
        Figure("files", found.files, "count"),
        Figure("bytes", sum(content.size for content in contents.values()), "B"),
        Figure("read", found.read, "count"),
        Figure("never read", found.never_read, "count"),
    )
    wrong = list(found.wrong.values())
    evidence = {"with": manifest.MANIFEST, "byte code": state, "read": found.read, "wrong": wrong[:100]}
    if wrong:
        return CheckResult("fail", first_few(wrong, SHOWN), figures, evidence, REBUILD)
    if state == "absent":
        text = f"cannot compare byte code: {home / manifest.BYTE_CODE_LIST} was never completed"
        return CheckResult("error", text, figures, evidence, "compile it again: ./firstlight provision")
    later = "; byte code is being compiled, and not compared yet" if state == "under way" else ""
    text = f"{found.files} files are as installed, by size and time; {found.read} of them by content{later}"
    return CheckResult("ok", text, figures, evidence)


MODULES = (".py", ".pyc", ".so")
CODE = (*MODULES, ".pth", ".zip", ".egg")
HALF_WRITTEN = re.compile(r".+\.pyc\.\d+")
"""Names of importlib's temporary files, which it renames when the byte code is complete."""
RESTART = "restart the service as planned: ./firstlight provision"
REMOVE = "find its owner (dpkg -S FILE, rpm -qf FILE), remove it, and check again: ./firstlight verify"


def injected(context: CheckContext) -> CheckResult:
    home = Path(sys.prefix).resolve()
    contents = manifest.listed(home / manifest.MANIFEST, home)
    compiled = manifest.listed(home / manifest.BYTE_CODE_LIST, home) or {}
    known = None if contents is None else frozenset({**contents, **compiled})
    found = [*at_start(search_path(home)), *preloaded(Path(table("injected")["start"]["preload"]))]
    if known:
        found += unlisted(home, known)
    if context.prefix:
        found += shadowing(context.prefix)
        found += in_processes(context, known or ())
    if "injected-code" in context.faults:
        found.append(Observation("fail", f"{home}/stray.pth: no wheel contains it", REBUILD))
    figures = (Figure("findings", len(found), "count"),)
    evidence = {
        # A new environment does not have what calls for its rebuilding.
        "in the environment": [finding.text for finding in found if finding.remedy == REBUILD][:100],
        "elsewhere": [finding.text for finding in found if finding.remedy != REBUILD][:100],
        "manifest": known is not None,
    }
    healthy = "nothing is loaded that was not installed"
    if known is None:
        healthy = "nothing injects code from outside; without a manifest, unlisted files cannot be found"
    return combine(found, healthy, figures, evidence)


def unlisted(home: Path, known: Collection[str]) -> Iterator[Observation]:
    """Yield files and links of the environment that its manifest does not list. Byte code of a listed source may come and go."""
    is_compiling = manifest.listing(home) != "there"
    for folder, folders, names in os.walk(home):
        if folder == str(home):
            continue  # the product's own files
        links = [name for name in folders if os.path.islink(f"{folder}/{name}")]  # noqa: PTH114 - tens of thousands
        for name in [*names, *links]:
            path = f"{folder}/{name}"
            if path in known:
                continue
            if folder.endswith("/__pycache__") and is_compiling and HALF_WRITTEN.fullmatch(name):
                continue
            if name.endswith(".pyc") and folder.endswith("/__pycache__"):
                # Until its list is complete, libraries.files reports on byte code.
                if not is_compiling and not manifest.stands_for_source(path):
                    yield Observation("fail", f"{path}: this byte code does not match its source", REBUILD)
            elif is_code(path, is_link=name in links):
                yield Observation("fail", f"{path}: no wheel of the environment contains it", REBUILD)
            else:
                text = f"{path}: no wheel of the environment contains it; it holds no code"
                yield Observation("warn", text, REMOVE)


def is_code(path: str, *, is_link: bool) -> bool:
    """Return whether a file can be loaded or run; other files of libraries cannot."""
    name = path.rpartition("/")[2]
    return is_link or os.path.islink(path) or name.endswith(CODE) or ".so." in name or os.access(path, os.X_OK)  # noqa: PTH114


def search_path(home: Path) -> list[Path]:
    """Return the folders outside the environment that its Python searches when the service starts, with the base interpreter's."""
    outside = [Path(entry).resolve() for entry in sys.path if entry and not entry.startswith(f"{home}/")]
    found = [folder for folder in outside if folder.is_dir() and home not in folder.parents]
    settings = small_text(home / "pyvenv.cfg")
    if re.search(r"^include-system-site-packages *= *true", settings, re.MULTILINE | re.IGNORECASE):
        found.append(Path(site.getusersitepackages()))
    return list(dict.fromkeys(found))


def at_start(folders: Iterable[Path]) -> Iterator[Observation]:
    """Yield modules in these folders that Python imports at each start, except unchanged ones of the distribution."""
    rows = table("injected")["start"]
    for folder in folders:
        for name in rows["modules"]:
            for path in (*folder.glob(f"{name}.*"), folder / name):
                if path.is_dir() or (path.suffix in MODULES and not of_distribution(path, Path(rows["conffiles"]))):
                    yield Observation("fail", f"{path}: Python imports it at each start", REMOVE)


def of_distribution(path: Path, status: Path) -> bool:
    """Return whether dpkg's status lists a file (possibly a link) with its current content."""
    try:
        target = path.resolve()
        md5 = hashlib.md5(target.read_bytes(), usedforsecurity=False).hexdigest()
        return f"\n {target} {md5}" in status.read_text(errors="surrogateescape")
    except OSError:
        return False


def preloaded(path: Path) -> Iterator[Observation]:
    """Yield libraries that the loader loads first in every process of the host (ld.so(8))."""
    try:
        lines = path.read_text(errors="surrogateescape").splitlines()  # whatever its size: the loader reads all of it
    except OSError:
        return
    entries = [entry for line in lines for entry in re.split(r"[\s:]+", line.partition("#")[0]) if entry]
    if entries:
        yield Observation("warn", f"{path}: every process loads {', '.join(entries)}", REMOVE)


def shadowing(folder: Path) -> Iterator[Observation]:
    """Yield modules in the service's working folder, which its programs search first."""
    for path in sorted(folder.iterdir()):
        if path.suffix in MODULES or (path.is_dir() and (path / "__init__.py").exists()):
            yield Observation("fail", f"{path}: it shadows a module of that name in the service", REMOVE)


def in_processes(context: CheckContext, known: Collection[str]) -> Iterator[Observation]:
    """Yield unplanned variables that inject code into this process or into those of the service."""
    record = read_json(service_plan.record_of(context.prefix)) if context.prefix else {}
    planned = (record.get("service") or {}).get("environment") or {}
    seen = set()
    for process in read_all((os.getpid(), *_pids(context))):
        is_isolated = process.pid == os.getpid()
        for name, value in injecting(process.environment, planned, known, is_isolated=is_isolated):
            if (name, value) not in seen:
                seen.add((name, value))
                where = "this shell" if is_isolated else f"process {process.pid} of the service"
                yield Observation("fail", f"{name}={value}: set in {where}", REMOVE if is_isolated else RESTART)


def _pids(context: CheckContext) -> Iterable[int]:
    """Return the service's processes. Those of another environment, or that restart after the checks, do not count."""
    serving = context.service if registry.service(context) is None else None
    return serving.pids() if serving and serving.main_pid else ()


def injecting(
    variables: Mapping[str, str], planned: Mapping[str, str], known: Collection[str], *, is_isolated: bool
) -> Iterator[tuple[str, str]]:
    """Yield the variables that inject code. vLLM may preload libraries of the environment; `-I` ignores Python's variables."""
    rows = table("injected")["variables"]
    for name, value in variables.items():
        if not value or planned.get(name) == value:
            continue
        if name in rows["loader"]:
            if not all(path in known for path in re.split("[: ]+", value) if path):
                yield name, value
        elif name.startswith(rows["prefix"]) and name not in rows["harmless"] and not is_isolated:
            yield name, value
