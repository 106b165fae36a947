"""serving.model: identity of the served model, and content of its files."""

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from verify.binaries import manifest
from verify.binaries.manifest import Contents, FileStamps, file_stamp, listed
from verify.records import CheckContext, CheckResult, Figure, Observation, combine
from verify.serving.client import Client, RequestError
from verify.serving.service import Service
from verify.tables import table

MARKS = "verify/model-files.json"
REMEDY = "./firstlight provision creates or sends the model's files again"


@dataclass(frozen=True)
class ModelFacts:
    """Observations on the host."""

    folder: str
    served_name: str
    files: int
    read: int
    """Number of files compared by content."""
    unread: int = 0
    """Number of files that were never compared by content."""
    wrong: Mapping[str, str] = field(default_factory=dict)
    unlisted: tuple[str, ...] = ()
    endpoint: Any = None
    """Answer of /v1/models; None if there is none."""


def run(context: CheckContext) -> CheckResult:
    service = context.service
    if service is None or context.faults:
        other = {"data": [{"id": "m", "root": "/tmp/other"}]}  # noqa: S108 - of no real file
        return evaluate(ModelFacts("/p/models/m", "m", 3, 3, endpoint=other))
    folder = Path(service.readiness["model_folder"])
    contents = listed(folder.with_name(f"{folder.name}.manifest.txt"), folder)
    if contents is None:
        text = f"{folder} has no manifest to compare with: an earlier release installed it"
        return CheckResult("skip", text, remedy="./firstlight provision writes one when it installs the model")
    return evaluate(collect(service, folder, contents, whole=context.includes("full")))


def collect(service: Service, folder: Path, contents: Contents, *, whole: bool) -> ModelFacts:
    """Compare the files with their manifest, and get the name of the served model."""
    known = manifest.load_stamps(service.prefix, folder, MARKS)
    marks = {path: file_stamp(path) for path in contents}
    wrong = manifest.wrong_sizes(contents)
    wanted = [path for path in chosen(contents, marks, known, whole=whole) if path not in wrong]
    read, until = list[str](), time.monotonic() + table("serving")["model"]["read_s"]
    for path in wanted:
        if time.monotonic() < until:
            wrong |= manifest.wrong_contents({path: contents[path]})
            read.append(path)
    kept = {path: mark for path, mark in known.items() if path in contents}
    kept |= {path: None if path in wrong else marks[path] for path in read}
    with suppress(OSError):  # the next run reads them again
        manifest.save_stamps(service.prefix, folder, kept, MARKS)
    client, endpoint = Client(service.endpoint, table("serving")["model"]["silence_s"], service.api_key()), None
    with suppress(RequestError):
        endpoint = client.get("/v1/models")
    unread = len(contents.keys() - kept.keys())
    there = tuple(unlisted(folder, contents))
    return ModelFacts(
        str(folder), service.readiness["served_name"], len(contents), len(read), unread, wrong, there, endpoint
    )


def chosen(contents: Contents, marks: FileStamps, known: FileStamps, *, whole: bool) -> list[str]:
    """Return the files to read, never-read ones first: small and changed ones and some others; with `whole` all."""
    limits = table("serving")["model"]
    never = [path for path in contents if path not in known]
    left, found = limits["unread_bytes"], list[str]()
    for path in (*never, *(path for path in contents if path in known)):
        size = contents[path][0].size
        is_due = whole or size <= limits["small_bytes"] or (path in known and known[path] != marks[path])
        if is_due or (path in never and size <= left):
            found.append(path)
            left -= 0 if is_due else size
    return found


def unlisted(folder: Path, contents: Contents) -> Iterable[str]:
    """Return the files in the model's folder that nobody installed: an engine reads some of them."""
    later = table("serving")["model"]["later"]
    for path in sorted(folder.rglob("*")):
        if not path.is_dir() and str(path) not in contents and not any(fnmatch(path.name, name) for name in later):
            yield str(path)


def evaluate(found: ModelFacts) -> CheckResult:
    """Report files that differ, added files, and another model under the name."""
    problems = [*found.wrong.values(), *(f"{path}: nobody installed it" for path in found.unlisted)]
    models = {str(model.get("id")): model.get("root") for model in (found.endpoint or {}).get("data", ())}
    if found.endpoint is not None:
        if found.served_name not in models:
            problems.append(f"the endpoint serves {', '.join(models) or 'no model'}, planned {found.served_name}")
        elif models[found.served_name] not in (None, found.folder):
            text = f"the endpoint serves {models[found.served_name]} as {found.served_name}, planned {found.folder}"
            problems.append(text)
    figures = (
        Figure("files", found.files, "count"),
        Figure("read", found.read, "count"),
        Figure("never read", found.unread, "count"),
    )
    evidence = {"folder": found.folder, "endpoint": models or None, "problems": problems[:100]}
    healthy = f"{found.files} files of {found.folder} are as installed, {found.read} of them by content"
    asked = f"; the endpoint serves them as {found.served_name}" if models else "; the endpoint did not name its model"
    return combine([Observation("fail", text, REMEDY) for text in problems], healthy + asked, figures, evidence)
