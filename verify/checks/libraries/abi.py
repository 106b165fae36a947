"""libraries.abi: symbols and C++ ABI that extensions need from torch."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from verify.binaries import elf
from verify.binaries.cxx_abi import is_of_torch, text_symbols
from verify.binaries.distributions import host_packages, site_files
from verify.host.views import torch_view
from verify.records import CheckContext, CheckResult, Figure, Observation, combine, first_few
from verify.tables import table

TORCH = "torch/lib/*.so"
AGAIN = "an extension fits one torch release and C++ ABI: install both from one lock (./firstlight provision)"
SHOWN = 3


def run(context: CheckContext) -> CheckResult:
    wanted: dict[str, set[str]] = {}
    offered: set[str] = set()
    for path in site_files(table("libraries")["extensions"]["globs"]):
        wants, offers = elf.open_library(path).symbols()
        wanted[str(path)] = {symbol for symbol in wants if is_of_torch(symbol)}
        offered |= offers
    if "stale-library" in context.faults:
        wanted["injected.so"] = {"_ZN3c106detail14torchCheckFailEPKcS2_jRKSs"}
    if not any(wanted.values()):
        return CheckResult("skip", "no extension here uses torch's C++")
    for path in site_files([TORCH], fallback=host_packages(context.stack)):
        offered |= elf.open_library(path).symbols()[1]
    return evaluate(wanted, offered, cxx11=bool(torch_view.load().compiled_with_cxx11_abi()))


def evaluate(wanted: Mapping[str, AbstractSet[str]], offered: AbstractSet[str], *, cxx11: bool) -> CheckResult:
    """Compare the torch symbols that each extension needs with those that torch and the extensions provide."""
    figures = (
        Figure("extensions", len(wanted), "count"),
        Figure("symbols needed from torch", len(set().union(*wanted.values())), "count"),
    )
    missing = {path: sorted(symbols - offered) for path, symbols in wanted.items() if symbols - offered}
    evidence = {"C++11 ABI of torch": cxx11, "missing": {path: names[:50] for path, names in missing.items()}}
    built, own = ("without", "with") if cxx11 else ("with", "without")
    problems = [
        f"{path} is built {built} the C++11 ABI ({foreign[0]}), and torch {own} it"
        for path, (new, old) in ((path, text_symbols(symbols)) for path, symbols in wanted.items())
        if (foreign := old if cxx11 else new)
    ]
    problems = problems or [
        f"{path} needs {first_few(names, SHOWN, separator=', ')}, which torch does not have"
        for path, names in missing.items()
    ]
    healthy = f"{len(wanted)} extensions find all symbols that they need in torch, with its C++ ABI"
    return combine([Observation("fail", text, AGAIN) for text in problems], healthy, figures, evidence)
