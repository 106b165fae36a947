"""README.md beside exported files: what they came from, and what of the fleet has no counterpart in them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from string import Template

from provision.core.models.inventory import Host
from provision.core.models.settings import Settings
from provision.core.models.stack import Stack
from provision.core.tables import own_table
from provision.features.export.formats import TEMPLATES_FILE, Format, fits
from provision.features.export.workloads import HERE, Workload, table
from provision.report.layout import fold_names

Rows = Iterator[tuple[str, str]]


def render(
    kind: Format,
    hosts: Sequence[Host],
    found: Sequence[Workload],
    stacks: Mapping[str, Stack],
    missing: Mapping[str, str],
) -> str:
    """Return the text.

    Args:
        kind: The format.
        hosts: All hosts that the export was asked for.
        found: The workloads; none for endpoints.
        stacks: By host; none for endpoints.
        missing: Why hosts are not in the files, by name.
    """
    text = (HERE / "templates" / "README.md").read_text(encoding="utf-8")
    is_workload = kind != "endpoints"
    described = [each for each in found if fits(kind, each)]
    origin = [("the hosts as they serve", "name, address, port and model of each")]
    left = [(f"host `{name}`", why) for name, why in missing.items()]
    if is_workload:
        others = [each for each in found if each not in described]
        elsewhere = {name for each in others for name in each.hosts}
        here = [host for host in hosts if host.name not in elsewhere]
        origin = [*_origin(described, here)]
        left += [*_other_formats(others), *_settings(here), *_plan(described, stacks)]
    else:
        left += _endpoints(hosts)
    entry = table()["format"][kind]
    return Template(text).substitute(
        title=entry["title"],
        format=kind,
        count=f"{len(hosts)} host{'s' if len(hosts) > 1 else ''}",
        use="\n".join(f"- {line}" for line in _steps(kind, described)),
        origin=_table("of the fleet", "here", origin),
        left=_table("of the fleet", "in its place", left),
    )


def _table(first: str, second: str, rows: Sequence[tuple[str, str]]) -> str:
    lines = [(first, second), ("---", "---"), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in lines)


def _steps(kind: Format, found: Sequence[Workload]) -> Iterator[str]:
    create = "kubectl create secret generic"
    if any(each.api_key for each in found):
        yield f"`{create} vllm-api-key --from-file=key=FILE`: one API key of all pods; each host has its own in PREFIX/etc/service.env"
    if any(each.hf_token for each in found):
        yield f"`{create} hf-token --from-file=token=FILE`: the token for the model hub"
    if folders := sorted({each.model for each in found if not each.on_hub}):
        yield f"PersistentVolumeClaim `models`, with the files of: {', '.join(f'`{name}/`' for name in folders)}"
    if any(each.chat_template for each in found):
        yield f"`kubectl apply -f {TEMPLATES_FILE}`"
    use = table()["format"][kind]["use"]
    yield use if "`" in use else f"`{use}`"


def _origin(found: Sequence[Workload], hosts: Sequence[Host]) -> Rows:
    for each in found:
        pods = f"{each.replicas} x {each.size} pods" if each.size > 1 else f"replicas: {each.replicas}"
        yield fold_names(each.hosts), f"`{each.name}`: {pods}, vLLM {each.version}, model name `{each.served_name}`"
    for name, where in own_table(HERE / "settings.toml")["taken"].items():
        if _is_set(name, hosts):
            yield f"`firstlight_{name}`", where


def _other_formats(found: Sequence[Workload]) -> Rows:
    for each in found:
        other = "lws" if each.size > 1 else "production-stack or kserve"
        yield f"{fold_names(each.hosts)}: `{each.served_name}`", f"another file: --format {other}"


def _settings(hosts: Sequence[Host]) -> Rows:
    for instead, settings in own_table(HERE / "settings.toml")["left"].items():
        for name in settings:
            if names := _is_set(name, hosts):
                yield f"`firstlight_{name}` of {fold_names(names)}", instead


def _is_set(name: str, hosts: Sequence[Host]) -> list[str]:
    default = getattr(Settings(), name)
    return [host.name for host in hosts if getattr(host.settings, name) != default]


def _plan(found: Sequence[Workload], stacks: Mapping[str, Stack]) -> Rows:
    for each in found:
        stack = stacks[each.hosts[0]]
        if stack.driver and stack.driver.version:
            manager = f", fabric manager {stack.fabric_manager}" if stack.fabric_manager else ""
            named = f"driver {stack.driver.version}{manager} of {fold_names(each.hosts)}"
            yield named, "the nodes' driver, which the image's CUDA has to fit"
        if stack.flash_attn.package:
            yield (
                f"package {stack.flash_attn.package.name}",
                "an image of your own; vLLM serves with its own kernels",
            )
        if each.platform == "rocm":
            yield f"the GPUs of {fold_names(each.hosts)}", "a nodeSelector with the labels of your nodes"
        if each.dropped:
            yield (
                f"variables of `{each.name}`: {', '.join(each.dropped)}",
                "none: they name folders and GPUs of a host, or serve its checks",
            )
        if each.size > 1:
            yield "InfiniBand and RoCE between the hosts", "a network resource or hostNetwork of your cluster"
    if any(each.on_hub for each in found):
        yield "model files on the disk of each host", "pods fetch them at each start; a volume for HF_HOME keeps them"
    if any(each.api_key for each in found):
        yield "the API key on every path but `/health`", "vLLM asks for it below `/v1` alone"
    yield "the lock with a hash of each package", "the packages of the image, by its digest"
    yield "checks of GPUs, attention and answers before and after a start", "probes of `/health`"


def _endpoints(hosts: Sequence[Host]) -> Rows:
    if any(host.settings.api_key for host in hosts):
        yield (
            "the API key of each host",
            "the router passes on what clients send: give all hosts one key, or firstlight_api_key: false",
        )
    if any(host.is_gateway for host in hosts):
        yield "the gateway", "it stays: the router is a second way to the hosts"
