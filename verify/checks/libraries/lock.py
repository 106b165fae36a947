"""libraries.lock: installed distributions compared with the lock."""

from collections.abc import Mapping, Sequence

from verify.binaries.distributions import installed, parse_lock, same_version
from verify.records import CheckContext, CheckResult, Figure, Observation, combine, first_few

SHOWN = 5
REMEDY = "reinstall the environment from its lock: ./firstlight provision"


def run(context: CheckContext) -> CheckResult:
    if context.lock is None:
        return CheckResult("error", "no lock")
    locked = parse_lock(context.lock.read_text())
    if "wrong-lock" in context.faults:
        locked = {**locked, next(iter(locked), "torch"): "0.0.0"}
    here = {name: [distribution.version for distribution in found] for name, found in installed().items()}
    return evaluate(locked, here, str(context.lock))


def evaluate(locked: Mapping[str, str], here: Mapping[str, Sequence[str]], source: str) -> CheckResult:
    """Compare names and versions. Several installed versions of one name are a failure."""
    twice = [f"{name} {' and '.join(versions)}" for name, versions in here.items() if len(versions) > 1]
    missing = sorted(set(locked) - set(here))
    extra = sorted(set(here) - set(locked))
    other = [
        f"{name} {here[name][0]}, locked {version}"
        for name, version in locked.items()
        if name in here and not same_version(here[name][0], version)
    ]
    figures = (Figure("distributions locked", len(locked), "count"), Figure("installed", len(here), "count"))
    faults = {"installed twice": twice, "another version": other, "missing": missing, "not in the lock": extra}
    details = [f"{kind}: {first_few(names, SHOWN, separator=', ')}" for kind, names in faults.items() if names]
    evidence = {"lock": source, **{kind: names for kind, names in faults.items() if names}}
    if not locked:
        return CheckResult("error", f"{source} locks nothing", figures, evidence)
    observations = [Observation("fail", text, REMEDY) for text in details]
    return combine(observations, f"all {len(locked)} distributions match the lock", figures, evidence)
