"""The question to a public service for vulnerabilities about all packages of the locks of a run. Its answer is never needed.

`uv audit` asks; the address of the service is uv's own. A row of the catalog judges an advisory by what the host does, so
those that it has are left out here.
"""

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from packaging.version import Version

from provision.catalog import catalog
from provision.catalog.index.settings import network_variables, read_settings
from provision.catalog.index.uv import refusal, uv_program
from provision.core.errors import StageError
from provision.core.process import run_program
from provision.core.requirements_file import read_lock
from provision.core.scratch import scratch_folder
from provision.run.context import RunContext
from provision.run.results import StagedHosts
from provision.run.step import Step

LIMIT_S = 10.0
"""Time limit of the audit, seconds."""
FILE = "audit.json"
"""What uv found, in the run's folder: that of all batches."""
_PROJECT = '[project]\nname = "locked"\nversion = "0"\nrequires-python = ">=3"\n'
_FOUND = 1
"""Exit status of `uv audit` where it found vulnerabilities."""

Package = tuple[str, str]
"""Name and version of a distribution."""


def apply(context: RunContext, staged: StagedHosts) -> StagedHosts:
    """Audit the locks of the hosts whose settings request it, and note at each one what was found in its own."""
    requested = {host.name for host in context.hosts() if host.settings.audit} & staged.staged.keys()
    locks = {host: packages_of(Path(staged.staged[host].lock).read_text(encoding="utf-8")) for host in requested}
    every = {package for packages in locks.values() for package in packages}
    if not every:
        return staged
    try:
        answer = ask(every)
    except StageError as error:
        notes: dict[str, str | None] = dict.fromkeys(locks, f"the packages were not audited: {error.text}")
    else:
        path = context.run.path(FILE)
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}  # of an earlier batch
        found = {key: rows for key, rows in answer.items() if isinstance(rows, list)}
        added = {key: [row for row in rows if row not in before.get(key, ())] for key, rows in found.items()}
        context.run.write(FILE, {key: before.get(key, []) + rows for key, rows in added.items()})
        notes = {host: note_of(answer, packages) for host, packages in locks.items()}
    for host, note in notes.items():
        if note is None or context.has_failed(host):
            continue
        result = context.outcomes.results[host]["stage"]
        context.record(result.model_copy(update={"notes": (*result.notes, note)}))
    return staged


def packages_of(lock: str) -> set[Package]:
    """Return the packages of a lock by their public versions, which a vulnerability is recorded for."""
    return {(package.name, Version(package.version).public) for package in read_lock(lock)}


def ask(packages: Collection[Package], service: str | None = None) -> dict[str, Any]:
    """Return the answer of `uv audit` about packages; `service` is the address of another service than uv's own.

    Raises StageError, with uv's own sentence, where it did not answer within the time limit.
    """
    command = [uv_program(), "audit", "--frozen", "--output-format", "json", "--no-config"]
    command += ["--preview-features", "audit-command,json-output", *(["--service-url", service] if service else [])]
    with scratch_folder() as folder:
        (folder / "pyproject.toml").write_text(_PROJECT, encoding="utf-8")
        (folder / "uv.lock").write_text(lock_for_uv(packages), encoding="utf-8")
        late = StageError(f"the service for vulnerabilities did not answer within {LIMIT_S:g} s")
        environment = os.environ | network_variables(read_settings()) | {"UV_HTTP_RETRIES": "0", "NO_COLOR": "1"}
        done = run_program(command, late, timeout_s=LIMIT_S, cwd=folder, env=environment)
    if done.returncode not in (0, _FOUND):
        raise StageError(refusal(done.stderr))
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def lock_for_uv(packages: Collection[Package]) -> str:
    """Return a uv.lock with packages. JSON strings are valid TOML strings."""
    rows = [
        f'name = {json.dumps(name)}\nversion = {json.dumps(version)}\nsource = {{ registry = "." }}\n'
        for name, version in sorted(packages)
    ]
    needed = "".join("  { " + ", ".join(row.splitlines()) + " },\n" for row in rows)
    project = f'name = "locked"\nversion = "0"\nsource = {{ virtual = "." }}\ndependencies = [\n{needed}]\n'
    return 'version = 1\nrequires-python = ">=3"\n' + "".join(f"\n[[package]]\n{row}" for row in [project, *rows])


def note_of(answer: Mapping[str, Any], packages: Collection[Package]) -> str | None:
    """Return what an answer says of packages beyond the advisories of the catalog; None where that is nothing."""
    known = {row.id for row in catalog().advisories}
    found: dict[Package, list[str]] = {}
    for row in answer["vulnerabilities"]:
        package = (row["dependency"]["name"], row["dependency"]["version"])
        if package in packages and known.isdisjoint({row["id"], *row["aliases"]}):
            fixed = f", fixed in {row['fix_versions'][0]}" if row["fix_versions"] else ""
            found.setdefault(package, []).append(f"{row['display_id']}{fixed}")
    if not found:
        return None
    told = (
        f"{name} {version}: {ids[0]}" + (f" and {len(ids) - 1} more" if len(ids) > 1 else "")
        for (name, version), ids in sorted(found.items())
    )
    about = "packages have published vulnerabilities that the catalog does not judge"
    return f"{len(found)} of {len(packages)} {about} ({FILE} has all): {'; '.join(told)}"


def _is_requested(context: RunContext) -> bool:
    return context.options.bundle is None and any(host.settings.audit for host in context.inventory.hosts)


STEP = Step("audit", apply, "stage", applies=_is_requested, in_batches=True, after="stage")
