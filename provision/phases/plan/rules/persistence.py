"""Persistence mode. Without it the driver unloads idle cards: the next start takes seconds, and settings are lost."""

from collections.abc import Iterator

from provision.phases.plan import driver
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, rule, warn

SOURCE = "docs.nvidia.com/deploy/driver-persistence"


@rule("nvidia-persistenced keeps the driver loaded for idle GPUs.", reads=("nvidia.gpus",), order=260)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    plan = driver.choose(option, profile)
    known = [card for card in profile.cards if card.persistent is not None]
    if plan is None or plan.action != "keep" or profile.foreign_driver or not known:
        return
    off = [card.index for card in known if not card.persistent]
    if off:
        text = f"persistence is off for GPU {', '.join(map(str, off))}: enable `nvidia-persistenced`"
        yield warn(text, source=SOURCE, off=off)
    else:
        yield accept("persistence is on for the GPUs that serve", source=SOURCE, off=[])
