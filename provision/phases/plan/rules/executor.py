"""What starts the processes of a model over several hosts."""

from __future__ import annotations

from collections.abc import Iterator

from provision.catalog.versions import numbers
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, reject, rule

SINCE = "0.23.0"
"""The first release that uses Ray only to start processes, which then speak as those that vLLM starts."""
SOURCE = "github.com/vllm-project/vllm/pull/36836; github.com/NovaSky-AI/SkyRL/issues/1653"

WITHOUT_RAY = {"cpu": "current platform cpu does not support ray"}
"""Platforms for which vLLM takes no Ray, with what it says there: `ray_device_key` in vllm/platforms/cpu.py of 0.32.0 is empty."""


@rule(
    "If Ray is to start the processes of a model over several hosts, the release supports Ray on this platform.",
    reads=("settings.executor", "settings.span", "nvidia.gpus", "amd.gpus"),
    order=131,
)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    policy, release = profile.policy, option.release
    if policy.executor != "ray" or policy.span == 1 or release is None:
        return
    if numbers(release.version) < numbers(SINCE):
        yield reject(
            f"firstlight_executor: ray needs vLLM {SINCE} or later, this is {release.version}; mp serves with it",
            source=SOURCE,
        )
    elif (said := WITHOUT_RAY.get(profile.platform)) is not None:
        yield reject(
            f"firstlight_executor: ray: vLLM {release.version} ends here with `{said}`; mp serves on such hosts",
            source="vllm/platforms/cpu.py and vllm/v1/executor/ray_utils.py of 0.32.0, tried with ray 2.60.0",
        )
    else:
        yield accept("Ray starts the processes of all hosts", source=SOURCE)
