"""The files of each format, from workloads and templates, and README.md beside them: what they came from, and what of the fleet has no
counterpart in them. Pure: equal workloads give equal text.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache
from typing import Any, Literal

import yaml

from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.core.models.settings import Settings
from provision.core.models.stack import Stack
from provision.core.tables import own_table
from provision.core.templates import text_templates
from provision.features.export.workloads import HERE, Workload, escaped, readiness_of, table
from provision.fleet.inventory.addresses import OUTSIDE, address_from
from provision.report.layout import fold_names

Format = Literal["production-stack", "lws", "kserve", "endpoints"]
TEMPLATES_FILE = "chat-templates.yaml"
_VALUE = re.compile(r"\$([a-z_]+)")
_NOTHING: tuple[Any, ...] = (None, [], {})


def filled(node: Any, values: Mapping[str, Any]) -> Any:
    """Return a part of a template with its values.

    A text `$name` is the value of that name. A mapping with the key `if` is there if the value that it names is; entries without a
    value are left out. A list within a list is part of it.
    """
    if isinstance(node, str):
        found = _VALUE.fullmatch(node)
        return deepcopy(values[found[1]]) if found else node
    if isinstance(node, dict):
        if "if" in node and not values[node["if"]]:
            return None
        entries = {key: filled(value, values) for key, value in node.items() if key != "if"}
        return {key: value for key, value in entries.items() if value not in _NOTHING or node[key] == {}}
    if not isinstance(node, list):
        return node
    items = [filled(item, values) for item in node]
    return [each for item in items for each in (item if isinstance(item, list) else [item]) if each is not None]


def text_of(documents: Sequence[Any]) -> str:
    """Return YAML documents as text."""
    return yaml.safe_dump_all(documents, sort_keys=False, width=120)


@cache
def _template(name: str) -> tuple[Any, ...]:
    return tuple(yaml.safe_load_all((HERE / "templates" / name).read_text(encoding="utf-8")))


def fits(kind: Format, workload: Workload) -> bool:
    """Return whether a format can describe a workload: a model over several hosts is a LeaderWorkerSet, any other one is not."""
    return (workload.size > 1) == (kind == "lws")


def files_of(kind: Format, found: Sequence[Workload], digest: str | None) -> dict[str, str]:
    """Return the text of each file by its name; none where the format has no place for any workload.

    Without a `digest` (`sha256:...`) the image is named by its tag alone.
    """
    fitting = [each for each in found if fits(kind, each)]
    if not fitting:
        return {}
    values = [_values(kind, each, digest) for each in fitting]
    documents = [filled(document, each) for each in values for document in _template(f"{kind}.yaml")]
    if kind == "production-stack":
        shared = {"models": documents, "api_key": any(each.api_key for each in fitting)}
        documents = [filled(_template("values.yaml")[0], shared)]
    templates = [filled(_template(TEMPLATES_FILE)[0], each) for each in values if each["chat_template"]]
    files = {table()["format"][kind]["file"]: documents, **({TEMPLATES_FILE: templates} if templates else {})}
    return {name: text_of(content) for name, content in files.items()}


def _values(kind: Format, each: Workload, digest: str | None) -> dict[str, Any]:
    """Return the values of a workload, by their names in templates: its own, and what follows from them."""
    images, gpu, row = table()["image"], table()["gpu"], table()["format"][kind]
    tag = f"{each.tag}@{digest}" if digest else each.tag
    resource, label = gpu["resource"].get(each.platform), gpu["label"].get(each.platform)
    gpus = {resource: str(each.gpus)} if each.gpus else {}
    selector = {label: each.product.replace(" ", "-")} if label and each.product else {}
    length, share = each.value("--max-model-len"), each.value("--gpu-memory-utilization")
    words = each.words(*row["fields"])
    revision = f":{each.revision}" if each.revision else ""
    return {
        **vars(each),
        "replicas": each.replicas,
        "repository": images[each.platform],
        "tag": tag,
        "image": f"{images[each.platform]}:{tag}",
        "runtime_class": "" if each.platform != "cuda" else None,
        "model": each.model if each.on_hub else f"/mnt/fleet-models/{each.model}",
        "uri": f"hf://{each.model}{revision}" if each.on_hub else f"pvc://models/{each.model}",
        "own_files": not each.on_hub,
        "leader_service": f"{each.name}-leader",
        "revision_words": ["--revision", each.revision] if each.revision else [],
        "memory": f"{each.memory_gib}Gi",
        "gpu_resource": resource,
        "requests": {"cpu": str(each.cores), "memory": f"{each.memory_gib}Gi", **gpus},
        "limits": gpus,
        "node_selector": selector,
        "node_terms": [{"key": key, "operator": "In", "values": [value]} for key, value in selector.items()],
        "tensor": int(each.value("--tensor-parallel-size") or 1),
        "dtype": each.value("--dtype"),
        "max_model_len": int(length) if length else None,
        "memory_share": float(share) if share else None,
        "traces": each.value("--otlp-traces-endpoint"),
        "span_port": str(each.span_port),
        "arguments": [shlex.quote(word) for word in words] if row.get("shell") else words,
        "environment": [{"name": name, "value": escaped(value)} for name, value in each.environment],
        "config_map": f"{each.name}-chat-template",
    }


def endpoints_of(
    hosts: Sequence[Host], facts: Mapping[str, HostFacts], out: Mapping[str, str]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return the entries of endpoints.yaml for hosts that answer requests, and why hosts have none, by name.

    Args:
        out: Why runs leave hosts out, by name.
    """
    entries: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    for host in hosts:
        installed = facts[host.name].installed if host.name in facts else None
        state = installed.service if installed else None
        now = readiness_of(facts[host.name]) if host.name in facts else {}
        address = address_from(OUTSIDE, host, str(now["host"])) if now else None
        if host.name in out:
            missing[host.name] = out[host.name]
        elif not now:
            missing[host.name] = "it serves nothing now"
        elif state not in ("active", None):
            missing[host.name] = f"its service is {state}"
        elif not re.fullmatch(r"(\d+\.){3}\d+", address or ""):
            missing[host.name] = (
                f"the router needs an IPv4 address that other machines reach, not `{address or now['host']}`"
            )
        else:
            labels = {"model": now["served_name"]}
            entries.append({"name": host.name, "address": address, "port": str(now["port"]), "labels": labels})
    return entries, missing


def readme(
    kind: Format,
    hosts: Sequence[Host],
    found: Sequence[Workload],
    stacks: Mapping[str, Stack],
    missing: Mapping[str, str],
) -> str:
    """Return the text of README.md, from templates/README.md.

    Args:
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
