"""The flavour of the kernel module: open or proprietary."""

from collections.abc import Iterator

from provision.phases.plan import driver
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, reject, rule


@rule("The kernel module has the flavour that the GPUs need.", reads=("nvidia.module_flavour", "nvidia.gpus"), order=60)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    plan = driver.choose(option, profile)
    if plan is None or plan.module is None:
        return
    demanding = {row.module: row for row in driver.architectures(profile) if row.module_only}
    source = next((row.source for row in demanding.values()), None)
    if len(demanding) > 1:
        names = " and ".join(sorted(row.name for row in demanding.values()))
        yield reject(f"{names} GPUs need different kernel modules", source=source, modules=sorted(demanding))
    elif demanding and plan.module not in demanding:
        name, needed = next((row.name, row.module) for row in demanding.values())
        yield reject(
            f"{name} needs the {needed} kernel module; the {plan.module} one is loaded",
            source=source,
            module=plan.module,
        )
    else:
        yield accept(f"the {plan.module} kernel module supports the GPUs", source=source, module=plan.module)
