"""A driver that is loaded answers; one that does not is no driver to build on."""

from collections.abc import Iterator

from provision.catalog import catalog
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import HostRule, Verdict, accept, reject


def evaluate(profile: HostProfile) -> Iterator[Verdict]:
    row = next((row for row in catalog().driver_faults if row.name == profile.driver_fault), None)
    if row is None:
        return
    facts = {"driver": profile.driver, "fault": row.name}
    text = f"driver {profile.driver or 'of unknown version'} is loaded and does not answer: {row.text}"
    if profile.driver_reinstalled:
        yield accept(
            f"{text}; `driver: {profile.policy.driver_setting}` has it installed anew", source=row.source, **facts
        )
        return
    where = "on the machine below: " if profile.foreign_driver else ""
    again = "" if profile.foreign_driver else "; or let Firstlight install it anew: `driver: install`, with `--reboot`"
    yield reject(f"{text}; {where}{row.remedy}{again}", source=row.source, **facts)


RULE = HostRule(
    id="driver-answers",
    statement="A driver that is loaded answers, or may be installed anew.",
    reads=("nvidia.smi_error", "nvidia.gpus", "kernel_modules", "settings.driver"),
    evaluate=evaluate,
    order=60,
)
