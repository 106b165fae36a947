"""Cards in MIG mode, which compute only on their slices."""

from collections.abc import Iterator

from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, host_rule, reject, warn

SOURCE = "docs.nvidia.com/datacenter/tesla/mig-user-guide: CUDA sees one slice a process; github.com/vllm-project/vllm issue 41848"


@host_rule("A GPU in MIG mode has a slice.", reads=("nvidia.gpus",), order=80)
def evaluate(profile: HostProfile) -> Iterator[Verdict]:
    split = [card for card in profile.cards if card.mig]
    empty = [card.index for card in split if not card.slices]
    if empty:
        text = f"MIG is on for GPU {', '.join(map(str, empty))}, and the GPU has no slice: CUDA finds no device"
        yield reject(text, source=SOURCE, mig=empty, slices=0)
    elif split:
        listed = ", ".join(f"{card.index} ({card.slices} slices)" for card in split)
        text = f"MIG is on for GPU {listed}: CUDA uses the first slice of each GPU with that slice's memory, and peer access does not work"
        yield warn(text, source=SOURCE, mig=[card.index for card in split])
    elif any(card.mig for card in profile.present):
        yield accept("MIG is off for the GPUs that serve", source=SOURCE)
