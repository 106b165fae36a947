"""Age limits for dependencies: by upload times where the user's indexes have them, else by the catalog's bounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from provision.catalog.index.project_page import IndexClient, IndexLocation
from provision.core.errors import StageError
from provision.core.models.stack import Stack
from provision.phases.stage.lock_file import LockedWheel
from provision.phases.stage.solve import solve
from provision.phases.stage.solve_request import SolveRequest


def has_upload_times(stack: Stack, indexes: Sequence[str], index_client: IndexClient) -> bool:
    """Check whether the main index, the first one, has the upload times of vLLM's files."""
    if not indexes or stack.vllm is None:
        return False
    [page] = index_client.fetch_pages([(IndexLocation(indexes[0]), stack.vllm.distribution)])
    return bool(page.files) and all(file.uploaded for file in page.files)


def solve_dated(request: SolveRequest, variables: Mapping[str, str]) -> tuple[str, SolveRequest]:
    """Solve with the age limit, and without it where uv refuses.

    uv treats a file without an upload time as too new. Where a second index has no upload times, its files are missing from the
    solution, so the limit cannot hold.

    Returns:
        The text of uv's lock, and the request that it answers.

    Raises:
        StageError: As `solve` does.
    """
    if request.until:
        try:
            return solve(request, variables), request
        except StageError:
            request = replace(request, until=None)
    return solve(request, variables), request


def explain_age_limits(stack: Stack, request: SolveRequest, wheels: Sequence[LockedWheel]) -> Iterator[str]:
    """Yield one sentence on why dependencies are older than the newest; nothing for a release without limits."""
    if stack.vllm is None or stack.dependencies is None or stack.dependencies.until is None:
        return
    subject = f"the dependencies of vLLM {stack.vllm.version} are limited"
    if request.until:
        yield f"{subject} to files uploaded until {request.until}"
        return
    locked = {canonicalize_name(wheel.distribution): wheel.version for wheel in wheels}
    bounds = [Requirement(text) for text in stack.dependencies.bounds]
    used = [f"{bound} ({locked[name]})" for bound in bounds if (name := canonicalize_name(bound.name)) in locked]
    yield f"{subject} by the catalog's bounds, because upload times are unknown: {', '.join(used) or 'none applies'}"
