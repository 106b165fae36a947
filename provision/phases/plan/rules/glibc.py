"""The lowest glibc for the wheels."""

from collections.abc import Iterable, Iterator

from provision.catalog.versions import numbers
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, assume, reject, rule


def floor(option: BuildOption) -> tuple[str, str, str]:
    """Return the glibc that a candidate needs, the part that needs it, and the source."""
    needs = [(option.torch.glibc, f"torch {option.torch.version}", option.torch.source)]
    if option.build:
        inferred = " (inferred from another release)" if option.build.inferred else ""
        needs.append((option.build.glibc, f"the vLLM wheel{inferred}", option.build.source))
    return max(needs, key=lambda need: numbers(need[0]))


@rule("The host's glibc is as new as the wheels need.", reads=("os.libc_version",), order=110, cause="glibc-too-old")
def evaluate(option: BuildOption, profile: HostProfile) -> Iterable[Verdict]:
    return _evaluate(option, profile.glibc)


def _evaluate(option: BuildOption, glibc: str | None) -> Iterator[Verdict]:
    needed, part, source = floor(option)
    if glibc is None:
        yield assume(f"glibc is {needed} or newer")
    elif numbers(glibc) < numbers(needed):
        yield reject(f"{part} needs glibc {needed}; the host has {glibc}", source=source, glibc=glibc, needed=needed)
    else:
        yield accept(f"the host has glibc {glibc}; {part} needs {needed}", source=source, glibc=glibc, needed=needed)
