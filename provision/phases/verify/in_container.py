"""Checks of kernels and libraries in the container that the service runs in: the same image, environment and GPUs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from provision.core.models.facts import HostFacts
from provision.core.models.records import CheckRecord
from provision.fleet.ssh import Session
from provision.phases.verify.run_checks import CheckOptions, Verified, answer_of
from provision.phases.verify.tool import Picked
from verify.records import CONTAINER

FAMILIES = ("libraries", "kernels", "attention", "operators", "engine")
"""What an image can change. All other checks look at the host, or at the service from outside."""
LEFT_OUT = ("libraries.injected",)
"""It asks the distribution's list of packages, which an image need not have; the host's own check looks at the environment."""
_RUN = (
    "podman run --rm --interactive --pull=never --network=none --pid=host --ipc=host --read-only --tmpfs=/tmp:exec "
    "--cap-drop=all --cap-add=dac_read_search --security-opt=label=disable --unsetenv-all --env=PATH --env=HOME=/tmp --entrypoint="
)
"""As the service has it, but root may read every folder of the installation."""


def container_command(prefix: str, image: str, facts: HostFacts | None) -> str:
    """Return the command that starts a program of the environment in the container, with all NVIDIA GPUs of the host."""
    has_gpus = facts and facts.nvidia and facts.nvidia.gpus and any(one.name == "nvidia-ctk" for one in facts.programs)
    gpus = " --device=nvidia.com/gpu=all" if has_gpus else ""
    return f"{_RUN}{gpus} --volume={shlex.quote(f'{prefix}:{prefix}:ro')} {image}"


def with_container(
    session: Session,
    verified: Verified,
    image: str | None,
    facts: HostFacts | None,
    *,
    prefix: str,
    options: CheckOptions,
    environment: str | None,
    devices: int,
    expect: Mapping[str, Any] | None,
    root: bool,
) -> Verified:
    """Run the checks in a container, if there is an image, and return the host's results with one record of them.

    The other arguments, and errors, are those of `verify`.
    """
    if image is None:
        return verified
    words = ["--level", options.level, "--json", *Picked(only=FAMILIES, skip=LEFT_OUT).words]
    limit_s, within = options.time_limit_s(devices), container_command(prefix, image, facts)
    found = answer_of(session, prefix, environment, words, expect=expect, limit_s=limit_s, root=root, within=within)
    bad = [check for check in found.checks if check.status in ("error", "fail")]
    passed = sum(check.status in ("ok", "warn") for check in found.checks)
    record = CheckRecord(
        id=CONTAINER,
        family="frame",
        status=bad[0].status if bad else "ok",
        host=session.host,
        reason=f"in the service's container, {bad[0].id}: {bad[0].reason}"
        if bad
        else f"in the service's container, {passed} checks passed, of {', '.join(FAMILIES)} and what they require",
        evidence=[check.model_dump(exclude_none=True) for check in bad] or None,
        remedy=bad[0].remedy if bad else None,
        seconds=found.document["seconds"],
        level=options.level,
    )
    return verified.plus(record)
