"""The environment, the files it is made from, and the model fit on the host's disks."""

from collections.abc import Iterator

from provision.catalog import catalog
from provision.phases.plan.host_profile import INCOMING, View
from provision.phases.plan.rules.base import HostRule, Verdict, accept, assume, reject


def judge(view: View) -> Iterator[Verdict]:
    need, python = catalog().needs[view.platform], catalog().python_need
    # on one file system the model is moved from where it arrives, elsewhere it needs its room twice
    model = view.load.gib if view.load else 0.0
    kept = need.installed + max(model, need.model) + python.installed
    arriving = need.wheels + python.archive + (0.0 if view.one_mount else model)
    asked = kept + arriving if view.one_mount else kept
    if view.disk_gib is None:
        yield assume(f"at least {asked:.1f} GiB free under the prefix")
    elif view.disk_gib < asked:
        text = f"{view.disk_gib} GiB are free under the prefix; the environment and what it is made from take {asked:.1f} GiB"
        yield reject(text, source=need.source, free_gib=view.disk_gib, needed_gib=round(asked, 1))
        return
    if not view.one_mount and view.incoming_gib is not None and view.incoming_gib < arriving:
        text = f"{view.incoming_gib} GiB are free under {INCOMING}; the files that are sent take {arriving:.1f} GiB"
        yield reject(text, source=need.source, free_gib=view.incoming_gib, needed_gib=round(arriving, 1))
        return
    if view.disk_gib is not None:
        text = f"the environment and what it is made from take {asked:.1f} GiB, and that much is free under the prefix"
        yield accept(text, source=need.source, needed_gib=round(asked, 1))


RULE = HostRule("disk", "The disks hold the environment, its files and the model.", ("disks", "settings.prefix"), judge)
