"""A loaded driver that does not answer nvidia-smi."""

from collections.abc import Iterator

from provision.catalog import catalog
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, host_rule, reject


@host_rule(
    "A loaded driver answers, or may be reinstalled.",
    reads=("nvidia.smi_error", "nvidia.gpus", "kernel_modules", "settings.driver"),
    order=60,
)
def evaluate(profile: HostProfile) -> Iterator[Verdict]:
    row = next((row for row in catalog().driver_faults if row.name == profile.driver_fault), None)
    if row is None:
        return
    facts = {"driver": profile.driver, "fault": row.name}
    text = f"driver {profile.driver or 'of unknown version'} is loaded and does not answer: {row.text}"
    if profile.driver_reinstalled:
        yield accept(f"{text}; `--driver {profile.policy.driver_setting}` reinstalls it", source=row.source, **facts)
        return
    where = "on the machine that owns the driver: " if profile.foreign_driver else ""
    again = "" if profile.foreign_driver else "; or let Firstlight reinstall it: `--driver install` and `--reboot`"
    yield reject(f"{text}; {where}{row.remedy}{again}", source=row.source, **facts)
