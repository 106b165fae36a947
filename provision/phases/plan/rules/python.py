"""There is a Python that both the build and torch have wheels for."""

from collections.abc import Iterable, Iterator

from provision.phases.plan import interpreter
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile, Interpreters
from provision.phases.plan.rule import Rule, Verdict, accept, assume, memoized, reject


def evaluate(option: BuildOption, profile: HostProfile) -> Iterable[Verdict]:
    return _evaluate(option, profile.interpreters)


@memoized
def _evaluate(option: BuildOption, there: Interpreters) -> Iterator[Verdict]:
    chosen = interpreter.choose_among(option, there)
    source = option.release.source if option.release else option.torch.source
    seen = [python.version for python in there.pythons]
    if chosen.interpreter is None:
        yield reject(chosen.why, source=source, pythons=seen)
        return
    if chosen.interpreter.origin == "host" and chosen.lacks_headers is None:
        yield assume(f"the headers of Python {chosen.interpreter.version} are on the host")
    yield accept(chosen.why, source=source, pythons=seen)


RULE = Rule(
    id="python",
    statement="A Python that the build takes is on the host or can be brought along.",
    reads=("pythons",),
    evaluate=evaluate,
    order=120,
    cause="python-version-unsupported",
)
