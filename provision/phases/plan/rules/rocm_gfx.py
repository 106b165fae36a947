"""GPU code for every AMD card."""

from collections.abc import Iterator

from provision.catalog import catalog
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, assume, reject, rule


@rule("The build contains code for every AMD GPU.", reads=("amd.gpus",), order=100, cause="rocm-arch-unsupported")
def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    if profile.platform != "rocm":
        return
    torch_row = next((row for row in catalog().rocm_archs if row.variant == option.torch_variant), None)
    lists = [("vLLM", option.build.gfx, option.build.source)] if option.build else []
    if torch_row:
        lists.append(("torch", torch_row.gfx, torch_row.source))
    else:
        yield assume(f"torch's {option.torch_variant} variant has code for the GPUs")
    for card in profile.amd:
        if card.gfx is None:
            yield assume(f"the build has code for the architecture of {card.name}")
            continue
        for part, gfx, source in lists:
            if card.gfx not in gfx:
                yield reject(
                    f"{part} {option.variant} has no code for {card.gfx} ({card.name})", source=source, gfx=card.gfx
                )
            else:
                yield accept(
                    f"{part} {option.variant} has code for {card.gfx} ({card.name})", source=source, gfx=card.gfx
                )
