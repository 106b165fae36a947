"""Known security holes of the driver, by the vendor's fixed release of its branch."""

from collections.abc import Iterator

from provision.catalog import catalog
from provision.catalog.versions import numbers
from provision.phases.plan import driver
from provision.phases.plan.advisories import advisories_of, text_of
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, rule, warn


@rule(
    "A driver below the vendor's fixed release of its branch is reported.",
    reads=("nvidia.driver_version", "settings.driver", "settings.accept_advisories"),
    order=272,
)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    plan = driver.choose(option, profile)
    if plan is None or plan.version is None:
        return
    rows = advisories_of("nvidia-driver", plan.version)
    open_ = [row for row in rows if row.id not in profile.policy.accepted]
    if open_:
        newest = max(open_, key=lambda row: numbers(row.fixed))
        change = _change(profile, plan.action)
        text = f"driver {plan.version} has {' and '.join(map(text_of, open_))}, fixed in {newest.fixed}"
        allows = newest.allows[:1].lower() + newest.allows[1:].rstrip(".")
        ids = [row.id for row in open_]
        yield warn(f"{text}: {allows}{change}", source=newest.source, driver=plan.version, advisories=ids)
    elif rows:
        text = f"driver {plan.version} has {' and '.join(map(text_of, rows))}; firstlight_accept_advisories names it"
        yield accept(text, source=rows[0].source, driver=plan.version)
    elif _is_listed(plan.version):
        yield accept(f"no advisory of its branch is open in driver {plan.version}", driver=plan.version)


def _change(profile: HostProfile, action: str) -> str:
    if profile.foreign_driver:
        return f"; the driver cannot be changed from {profile.foreign_driver}"
    guest = any(card.virtual for card in profile.cards)
    offer = None if guest else driver.replacement(profile)
    if action == "keep" and profile.policy.driver != "upgrade" and offer:
        return f"; `--driver upgrade` installs {offer}"
    return ""


def _is_listed(version: str) -> bool:
    branch = numbers(version)[:1]
    return any(row.product == "nvidia-driver" and numbers(row.since)[:1] == branch for row in catalog().advisories)
