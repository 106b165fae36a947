"""Free disk space for the environment, its files and the model."""

from collections.abc import Iterator

from provision.catalog import catalog
from provision.phases.plan.host_profile import INCOMING, HostProfile
from provision.phases.plan.rule import Verdict, accept, assume, host_rule, reject


@host_rule(
    "The disks have space for the environment, its files and the model.",
    reads=("disks", "settings.prefix"),
    order=110,
    cause="disk-full",
)
def evaluate(profile: HostProfile) -> Iterator[Verdict]:
    need, python = catalog().needs[profile.platform], catalog().python_need
    # a model that arrives on another file system is copied, so it needs its space twice
    model = profile.served_model.gib if profile.served_model else 0.0
    kept = need.installed + max(model, need.model) + python.installed
    arriving = need.wheels + python.archive + (0.0 if profile.one_mount else model)
    needed = kept + arriving if profile.one_mount else kept
    if profile.disk_gib is None:
        yield assume(f"at least {needed:.1f} GiB free in the installation folder")
    elif profile.disk_gib < needed:
        text = f"{profile.disk_gib} GiB are free in the installation folder; the environment and its files need {needed:.1f} GiB"
        yield reject(text, source=need.source, free_gib=profile.disk_gib, needed_gib=round(needed, 1))
        return
    if not profile.one_mount and profile.incoming_gib is not None and profile.incoming_gib < arriving:
        text = (
            f"{profile.incoming_gib} GiB are free under {INCOMING}; the files that arrive there need {arriving:.1f} GiB"
        )
        yield reject(text, source=need.source, free_gib=profile.incoming_gib, needed_gib=round(arriving, 1))
        return
    if profile.disk_gib is not None:
        text = f"the environment and its files need {needed:.1f} GiB, which are free in the installation folder"
        yield accept(text, source=need.source, needed_gib=round(needed, 1))
