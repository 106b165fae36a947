"""FlashInfer's kernels are compiled by a fitting nvcc, come prebuilt at its very version, or are not used."""

from collections.abc import Iterator

from provision.resolve import flashinfer
from provision.resolve.option import Option
from provision.resolve.rules.base import Rule, Verdict, accept, assume, reject
from provision.resolve.view import View


def judge(option: Option, view: View) -> Iterator[Verdict]:
    chosen = flashinfer.choose(option, view)
    if chosen is None:
        return
    facts = {"toolkits": list(view.around.toolkits or ()), "asked": view.policy.attention}
    if chosen.assumed:
        yield assume(chosen.assumed)
    elif chosen.refused:
        yield reject(chosen.refused, source=chosen.source, **facts)
    else:
        yield accept(chosen.why, source=chosen.source or (option.release.source if option.release else None), **facts)


RULE = Rule(
    "flashinfer",
    "FlashInfer's kernels are compiled by an nvcc of the build's CUDA major, prebuilt at its very version, or switched off.",
    ("cuda_toolkits", "programs", "settings.attention"),
    judge,
)
