"""Dependencies of a release's own time: by their upload times where the user's indexes tell them, else by the catalog's bounds alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from provision.catalog.index.project_page import IndexClient, Place
from provision.core.errors import StageError
from provision.core.models.stack import Stack
from provision.phases.stage.lock import Locked
from provision.phases.stage.solve import solve
from provision.phases.stage.solve_request import Request


def tells_times(stack: Stack, indexes: Sequence[str], directory: IndexClient) -> bool:
    """Whether the main index, the first, says when vLLM's files were uploaded."""
    if not indexes or stack.vllm is None:
        return False
    [listing] = directory.list_all([(Place(indexes[0]), stack.vllm.distribution)])
    return bool(listing.offers) and all(offer.uploaded for offer in listing.offers)


def solve_dated(request: Request, variables: Mapping[str, str]) -> tuple[str, Request]:
    """uv's answer, and the request that it answers, which may be without the day.

    To uv a file without an upload time is too new. So where an index beside the main one tells no times, what that index alone holds is
    missing, and the day cannot be kept. Raises StageError as `solve` does.
    """
    if request.until:
        try:
            return solve(request, variables), request
        except StageError:
            request = replace(request, until=None)
    return solve(request, variables), request


def held_back(stack: Stack, request: Request, wheels: Sequence[Locked]) -> Iterator[str]:
    """What kept dependencies from being as new as they are, for people; nothing of a release that keeps up with them."""
    if stack.vllm is None or stack.dependencies is None or stack.dependencies.until is None:
        return
    subject = f"the dependencies of vLLM {stack.vllm.version} are of its own time"
    if request.until:
        yield f"{subject}: no file that was uploaded after {request.until}"
        return
    locked = {canonicalize_name(wheel.distribution): wheel.version for wheel in wheels}
    bounds = [Requirement(text) for text in stack.dependencies.bounds]
    held = [f"{bound} ({locked[name]})" for bound in bounds if (name := canonicalize_name(bound.name)) in locked]
    yield f"{subject} by the catalog's bounds, since an index tells no upload times: {', '.join(held) or 'none of them is needed'}"
