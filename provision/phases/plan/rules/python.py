"""A Python for which both the build and torch have wheels."""

from collections.abc import Iterable, Iterator

from provision.phases.plan import interpreter
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile, Interpreters
from provision.phases.plan.rule import Verdict, accept, assume, reject, rule


@rule(
    "A Python that the build supports is on the host or can be installed.",
    reads=("pythons",),
    order=120,
    cause="python-version-unsupported",
)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterable[Verdict]:
    return _evaluate(option, profile.interpreters)


def _evaluate(option: BuildOption, interpreters: Interpreters) -> Iterator[Verdict]:
    choice = interpreter.choose_among(option, interpreters)
    source = option.release.source if option.release else option.torch.source
    seen = [python.version for python in interpreters.pythons]
    if choice.interpreter is None:
        yield reject(choice.why, source=source, pythons=seen)
        return
    if choice.interpreter.origin == "host" and choice.lacks_headers is None:
        yield assume(f"the host has the headers of Python {choice.interpreter.version}")
    yield accept(choice.why, source=source, pythons=seen)
