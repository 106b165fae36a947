"""README.md beside exported files: what they came from, and what of the fleet has no counterpart in them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from provision.core.models.inventory import Host
from provision.core.models.settings import Settings
from provision.core.models.stack import Stack
from provision.core.tables import own_table
from provision.core.templates import text_templates
from provision.features.export.formats import TEMPLATES_FILE, Format, fits
from provision.features.export.workloads import HERE, Workload, table
from provision.report.layout import fold_names


def render(
    kind: Format,
    hosts: Sequence[Host],
    found: Sequence[Workload],
    stacks: Mapping[str, Stack],
    missing: Mapping[str, str],
) -> str:
    """Return the text, from templates/README.md.

    Args:
        kind: The format.
        hosts: All hosts that the export was asked for.
        found: The workloads; none for endpoints.
        stacks: By host; none for endpoints.
        missing: Why hosts are not in the files, by name.
    """
    described = [each for each in found if fits(kind, each)]
    others = [each for each in found if not fits(kind, each)]
    elsewhere = {name for each in others for name in each.hosts}
    here = [host for host in hosts if host.name not in elsewhere] if kind != "endpoints" else []
    settings = own_table(HERE / "settings.toml")
    left = [(name, instead) for instead, names in settings["left"].items() for name in names]
    templates = text_templates(HERE / "templates")
    templates.filters |= {"names": fold_names, "cell": lambda text: text.replace("|", "&#124;")}
    return templates.get_template("README.md").render(
        kind=kind,
        entry=table()["format"][kind],
        hosts=hosts,
        described=described,
        others=others,
        stacks=stacks,
        missing=missing,
        folders=sorted({each.model for each in described if not each.on_hub}),
        templates_file=TEMPLATES_FILE,
        taken=[(name, where) for name, where in settings["taken"].items() if _is_set(name, here)],
        left=[(name, names, instead) for name, instead in left if (names := _is_set(name, here))],
    )


def _is_set(name: str, hosts: Sequence[Host]) -> list[str]:
    """Return the hosts on which a setting is not the default."""
    default = getattr(Settings(), name)
    return [host.name for host in hosts if getattr(host.settings, name) != default]
