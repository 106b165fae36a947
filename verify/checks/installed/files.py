"""installed.files: owner, mode and content of everything below the prefix, as recorded when it was installed. installed.advisories: security advisories that apply to what is installed, as the controller's catalog has them."""

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import Any

from verify.binaries.distributions import installed, normalised, version_key
from verify.files import printed, small_text
from verify.host.views import kernel_driver
from verify.records import CheckContext, CheckResult, Figure, Observation, combine
from verify.tables import table

RECORD_BYTES = 1 << 24
"""Bound for a record: one line a file of the installation, without its environments."""
REMEDY = "./firstlight provision restores what it installed; what it did not install, it leaves: remove that, or move it elsewhere"


def files(context: CheckContext) -> CheckResult:
    if context.service is None or context.faults:
        return evaluate_files(1, ["/opt/firstlight/bin/x has mode 0777 of user 0, recorded with 0755 of 0"])
    prefix, key = context.service.prefix, context.service.api_key()
    texts = (small_text(prefix / f"state.{name}", limit=RECORD_BYTES) for name in ("files", "sha256", "secrets"))
    owned, sums = recorded(*texts)
    if not owned:
        remedy = "./firstlight provision records it again"
        return CheckResult("error", f"{prefix}/state.files cannot be read", remedy=remedy)
    found = (differing(owned, sums), unknown(prefix, owned), exposed(prefix), copies(prefix, key) if key else ())
    return evaluate_files(len(owned), [*chain.from_iterable(found)])


def evaluate_files(count: int, problems: Sequence[str]) -> CheckResult:
    """Fail on every problem of an installation with a number of recorded files and folders."""
    figures = (Figure("recorded files and folders", count, "count"),)
    found = [Observation("fail", text, REMEDY) for text in problems]
    healthy = (
        f"{count} files and folders are as recorded, nobody else may change what is served, and no other file is there"
    )
    return combine(found, healthy, figures, {"problems": problems[:100]})


Owned = tuple[int, int, "int | None"]
"""Recorded mode, owner, and size of a file."""


def recorded(files: str, sums: str, secrets: str) -> tuple[dict[str, Owned], dict[str, str]]:
    """Parse the records of an installation: what each path is (PREFIX/state.files), SHA-256 of small files (state.sha256, state.secrets)."""
    rows = [line.split(" ", 6) for line in files.splitlines() if line.count(" ") >= 6]
    digests = (line.partition("  ") for text in (sums, secrets) for line in text.splitlines())
    return (
        {
            path: (int(mode, 8), int(uid), int(size) if size.isdigit() else None)
            for mode, uid, _, size, _, _, path in rows
        },
        {path: digest for digest, _, path in digests},
    )


def differing(owned: Mapping[str, Owned], sums: Mapping[str, str]) -> Iterator[str]:
    """Yield what has another mode, owner, size or content than recorded, or is gone."""
    for path, (mode, uid, size) in owned.items():
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            yield f"{path} is gone"
            continue
        if (stat.S_IMODE(found.st_mode), found.st_uid) != (mode, uid):
            yield f"{path} has mode {stat.S_IMODE(found.st_mode):04o} of user {found.st_uid}, recorded with {mode:04o} of {uid}"
        if path not in sums and size not in (None, found.st_size):
            yield f"{path} has {found.st_size} bytes, recorded with {size}"
    for path, digest in sums.items():
        try:
            content = Path(path).read_bytes()
        except FileNotFoundError:
            if path not in owned:
                yield f"{path} is gone"
            continue
        if hashlib.sha256(content).hexdigest() != digest:
            yield f"{path} has another content than recorded"


def unknown(prefix: Path, known: Iterable[str]) -> Iterator[str]:
    """Yield files that were neither recorded nor written by this product later."""
    rows, names = table("installed")["files"], {os.path.relpath(path, prefix) for path in known}
    for path in prefix.iterdir():
        if path.is_file() and not path.is_symlink() and not any(fnmatchcase(path.name, each) for each in rows["top"]):
            yield f"{path} is unknown: nobody installed it"
    later = [f"{each}{end}" for each in rows["later"] for end in ("", "/*")]
    for entry in _below(prefix, rows["recorded"]):
        place = entry.removeprefix(f"{prefix}/")
        if place not in names and not any(fnmatchcase(place, each) for each in later):
            yield f"{entry} is unknown: nobody installed it"


def _below(prefix: Path, folders: Iterable[str]) -> Iterator[str]:
    """Yield everything in some folders of an installation."""
    for folder in folders:
        for above, inner, files in os.walk(prefix / folder):
            yield from (f"{above}/{name}" for name in (*inner, *files))


def exposed(prefix: Path) -> Iterator[str]:
    """Yield what others than the owner of the installation may change, among what decides what is served."""
    owner = prefix.stat()
    for path in _below(prefix, table("installed")["files"]["protected"]):
        found = os.lstat(path)
        if stat.S_ISLNK(found.st_mode):
            continue
        others = found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and found.st_gid != owner.st_gid)
        if others or found.st_uid not in (0, owner.st_uid):
            yield f"{path} may be changed by others (mode {stat.S_IMODE(found.st_mode):04o} of user {found.st_uid})"


def copies(prefix: Path, key: str) -> Iterator[str]:
    """Yield files with the key that everybody may read: in the folders of the installation, and directly in well-known ones."""
    rows = table("installed")["files"]
    below = map(Path, _below(prefix, (*rows["recorded"], "logs", "verify")))
    outside = (path for pattern in rows["copies"] for path in Path("/").glob(f"{pattern[1:]}/*"))
    for path in (*prefix.iterdir(), *below, *outside):
        try:
            is_open = path.stat().st_mode & stat.S_IROTH
        except OSError:
            continue
        if is_open and key in small_text(path):
            yield f"{path} has the API key, and everybody may read it"


ID = "installed.advisories"
DRIVER, TOOLKIT = "nvidia-driver", "nvidia-container-toolkit"
TOOLKIT_VERSION = ("nvidia-ctk", "--version")
LIMIT_S = 10.0
SHOWN = 3
CRITICAL, OTHER = "open advisories of CVSS 9 or more", "open advisories below CVSS 9"
"""Names of the figures."""
ACCEPT = "firstlight_accept_advisories names those whose risk you take"


def advisories(context: CheckContext) -> CheckResult:
    rows = context.expect.get("advisories")
    if "stale-library" in context.faults:
        hole = {"id": "injected", "product": "vllm", "severity": 10.0, "critical": True, "since": "0", "fixed": "1"}
        return evaluate_advisories([{**hole, "allows": "An injected fault.", "accepted": False}], {"vllm": "0"})
    if rows is None:
        return CheckResult("skip", "no advisories were passed", remedy="check from the controller: ./firstlight verify")
    found = {name: distributions[0].version for name, distributions in installed().items()}
    if (own := (context.stack.get("vllm") or {}).get("distribution")) and normalised(own) in found:
        found["vllm"] = found[normalised(own)]
    found |= {name: version for name, version in ((DRIVER, kernel_driver.release()), (TOOLKIT, _toolkit())) if version}
    return evaluate_advisories(rows, found)


def _toolkit() -> str | None:
    said = re.search(r"version (\d+(?:\.\d+)+)", printed(TOOLKIT_VERSION, limit_s=LIMIT_S) or "")
    return said[1] if said else None


def evaluate_advisories(rows: Sequence[Mapping[str, Any]], versions: Mapping[str, str]) -> CheckResult:
    """Compare installed versions, by product, with the ranges of advisories whose conditions hold on this host."""
    known = [row for row in rows if row["product"] in versions and affects(row, versions[row["product"]])]
    open_ = [row for row in known if not row["accepted"]]
    critical = [row for row in open_ if row["critical"]]
    lesser = [row for row in open_ if not row["critical"]]
    figures = (Figure(CRITICAL, len(critical), "count"), Figure(OTHER, len(lesser), "count"))
    products = sorted({row["product"] for row in rows} & versions.keys())
    evidence = {
        "versions": {product: versions[product] for product in products},
        "open": [row["id"] for row in open_],
        "accepted": [row["id"] for row in known if row["accepted"]],
    }
    if critical:
        worst = max(critical, key=lambda row: float(row["severity"]))
        more = f"; {len(open_) - 1} more apply" if len(open_) > 1 else ""
        remedy = f"upgrade {worst['product']} to {worst['fixed']} or newer; {ACCEPT}"
        allows = worst["allows"][:1].lower() + worst["allows"][1:].rstrip(".")
        what = f"{worst['product']} {versions[worst['product']]} has {worst['id']} (CVSS {worst['severity']:g})"
        text = f"{what}, fixed in {worst['fixed']}: {allows}{more}"
        return CheckResult("warn", text, figures, evidence, remedy)
    text = f"no open advisory of CVSS 9 or more in {', '.join(products) or 'what is installed'}"
    if lesser:
        names = ", ".join(f"{row['id']} of {row['product']}" for row in lesser[:SHOWN])
        text += f"; below that: {names}{f' and {len(lesser) - SHOWN} more' if len(lesser) > SHOWN else ''}"
    return CheckResult("ok", text, figures, evidence)


def affects(row: Mapping[str, Any], version: str) -> bool:
    """Return whether a version is in the range of an advisory."""
    since, here, fixed = (version_key(text)[:2] for text in (row["since"], version, row["fixed"]))
    return since <= here < fixed
