"""installed.advisories: security advisories that apply to what is installed, as the controller's catalog has them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from verify.binaries.distributions import installed, normalised, version_key
from verify.commands import printed
from verify.host.views import kernel_driver
from verify.records import CheckContext, CheckResult, Figure

ID = "installed.advisories"
DRIVER, TOOLKIT = "nvidia-driver", "nvidia-container-toolkit"
TOOLKIT_VERSION = ("nvidia-ctk", "--version")
LIMIT_S = 10.0
SHOWN = 3
CRITICAL, OTHER = "open advisories of CVSS 9 or more", "open advisories below CVSS 9"
"""Names of the figures."""
ACCEPT = "firstlight_accept_advisories names those whose risk you take"


def run(context: CheckContext) -> CheckResult:
    rows = context.expect.get("advisories")
    if "stale-library" in context.faults:
        hole = {"id": "injected", "product": "vllm", "severity": 10.0, "critical": True, "since": "0", "fixed": "1"}
        return evaluate([{**hole, "allows": "An injected fault.", "accepted": False}], {"vllm": "0"})
    if rows is None:
        return CheckResult("skip", "no advisories were passed", remedy="check from the controller: ./firstlight verify")
    found = {name: distributions[0].version for name, distributions in installed().items()}
    if (own := (context.stack.get("vllm") or {}).get("distribution")) and normalised(own) in found:
        found["vllm"] = found[normalised(own)]
    found |= {name: version for name, version in ((DRIVER, kernel_driver.release()), (TOOLKIT, _toolkit())) if version}
    return evaluate(rows, found)


def _toolkit() -> str | None:
    said = re.search(r"version (\d+(?:\.\d+)+)", printed(TOOLKIT_VERSION, limit_s=LIMIT_S) or "")
    return said[1] if said else None


def evaluate(rows: Sequence[Mapping[str, Any]], versions: Mapping[str, str]) -> CheckResult:
    """Compare installed versions, by product, with the ranges of advisories whose conditions hold on this host."""
    known = [row for row in rows if row["product"] in versions and affects(row, versions[row["product"]])]
    open_ = [row for row in known if not row["accepted"]]
    critical = [row for row in open_ if row["critical"]]
    lesser = [row for row in open_ if not row["critical"]]
    figures = (Figure(CRITICAL, len(critical), "count"), Figure(OTHER, len(lesser), "count"))
    products = sorted({row["product"] for row in rows} & versions.keys())
    evidence = {
        "versions": {product: versions[product] for product in products},
        "open": [row["id"] for row in open_],
        "accepted": [row["id"] for row in known if row["accepted"]],
    }
    if critical:
        worst = max(critical, key=lambda row: float(row["severity"]))
        more = f"; {len(open_) - 1} more apply" if len(open_) > 1 else ""
        remedy = f"upgrade {worst['product']} to {worst['fixed']} or newer; {ACCEPT}"
        return CheckResult("warn", f"{_described(worst, versions)}{more}", figures, evidence, remedy)
    text = f"no open advisory of CVSS 9 or more in {', '.join(products) or 'what is installed'}"
    if lesser:
        names = ", ".join(f"{row['id']} of {row['product']}" for row in lesser[:SHOWN])
        text += f"; below that: {names}{f' and {len(lesser) - SHOWN} more' if len(lesser) > SHOWN else ''}"
    return CheckResult("ok", text, figures, evidence)


def _described(row: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    allows = row["allows"][:1].lower() + row["allows"][1:].rstrip(".")
    what = f"{row['product']} {versions[row['product']]} has {row['id']} (CVSS {row['severity']:g})"
    return f"{what}, fixed in {row['fixed']}: {allows}"


def affects(row: Mapping[str, Any], version: str) -> bool:
    """Return whether a version is in the range of an advisory."""
    since, here, fixed = (version_key(text)[:2] for text in (row["since"], version, row["fixed"]))
    return since <= here < fixed
