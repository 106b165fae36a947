"""NVIDIA's compatibility libraries run builds of a newer CUDA major under an older driver, on data-centre cards."""

from collections.abc import Iterator

from provision.catalog import catalog
from provision.catalog.versions import cuda_of, numbers
from provision.resolve import driver
from provision.resolve.option import Option
from provision.resolve.rules.base import Rule, Verdict, accept, reject
from provision.resolve.view import View

SOURCE = "docs.nvidia.com/deploy/cuda-compatibility/forward-compatibility.html; vllm/env_override.py of vLLM 0.17.0"
BASES = ("lts", "production")
"""Kinds of driver branches that the libraries are made for."""


def judge(option: Option, view: View) -> Iterator[Verdict]:
    plan = driver.choose(option, view)
    cuda = cuda_of(option.variant)
    if plan is None or plan.version is None or cuda is None or not driver.too_old(option, view, plan.version):
        return
    package = f"cuda-compat-{cuda.replace('.', '-')}"
    facts = {"driver": plan.version, "cards": sorted({card.name for card in view.cards})}
    other = next((card.name for card in view.cards if card.row is None or card.row.kind != "data-centre"), None)
    branch = next((row for row in catalog().branches if row.branch == numbers(plan.version)[0]), None)
    if other is not None:
        yield reject(
            f"{package} is for data-centre cards; on {other} it ends in error 803 or 804", source=SOURCE, **facts
        )
    elif branch is None or branch.kind not in BASES:
        text = f"{package} is made for drivers of long-term and production branches, and {plan.version} is of neither"
        yield reject(text, source=SOURCE, **facts)
    else:
        text = (
            f"by hand it could: {package} of NVIDIA's repository brings CUDA {cuda} to data-centre cards under driver "
            f"{plan.version} (VLLM_ENABLE_CUDA_COMPATIBILITY=1, since vLLM 0.17.0); this product does not install it"
        )
        yield accept(text, source=SOURCE, **facts)


RULE = Rule(
    "cuda-compat",
    "Under a driver that is too old, NVIDIA's compatibility libraries are an option by hand on data-centre cards alone.",
    ("nvidia.driver_version", "nvidia.gpus"),
    judge,
)
