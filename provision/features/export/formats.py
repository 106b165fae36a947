"""The files of each format, from workloads and templates. Pure: equal workloads give equal text."""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Literal

import yaml

from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.core.models.settings import CHAT_TEMPLATE
from provision.features.export.workloads import HERE, TEMPLATES, Workload, readiness_of, table

Format = Literal["production-stack", "lws", "kserve", "endpoints"]
API_KEY, HF_TOKEN = ("vllm-api-key", "key"), ("hf-token", "token")
"""Names of the secrets, and of the keys in them. People create them; no file here contains one."""
CLAIM, MODELS = "models", "/mnt/fleet-models"
SHARED_MEMORY = "20Gi"
"""Limit of /dev/shm, through which the processes of a pod speak: the default of the chart vllm-stack."""
TEMPLATES_FILE = "chat-templates.yaml"

_OPTIONS = {
    "tensor": "--tensor-parallel-size",
    "dtype": "--dtype",
    "max_model_len": "--max-model-len",
    "memory_share": "--gpu-memory-utilization",
    "traces": "--otlp-traces-endpoint",
    "served_name": "--served-model-name",
}


def filled(node: Any, values: Mapping[str, Any]) -> Any:
    """Return a part of a template with `$name` replaced by a value; entries whose value is None or empty are left out."""
    if isinstance(node, str) and node.startswith("$"):
        return values[node[1:]]
    if isinstance(node, dict):
        found = {key: filled(value, values) for key, value in node.items()}
        return {key: value for key, value in found.items() if value not in (None, [], {}) or node[key] == value}
    return [filled(item, values) for item in node] if isinstance(node, list) else node


@cache
def _template(name: str) -> tuple[Any, ...]:
    return tuple(yaml.safe_load_all((HERE / "templates" / name).read_text(encoding="utf-8")))


def image_of(workload: Workload, digest: str | None) -> tuple[str, str]:
    """Return the repository of a workload's image, and its tag, with the digest after it."""
    tag = f"v{workload.version}"
    return table()["image"][workload.platform], f"{tag}@{digest}" if digest else tag


def files_of(kind: Format, found: Sequence[Workload], digest: str | None) -> dict[str, str]:
    """Return the text of each file by its name; none where the format has no place for any workload.

    Args:
        kind: One of the formats that describe workloads.
        found: The workloads.
        digest: Of the image, `sha256:...`; None: its tag alone.
    """
    fitting = [each for each in found if fits(kind, each)]
    if not fitting:
        return {}
    if kind == "production-stack":
        documents = [_production_stack(fitting, digest)]
    else:
        objects: Callable[[Workload, str], list[Any]] = _lws if kind == "lws" else _kserve
        documents = [each for one in fitting for each in objects(one, ":".join(image_of(one, digest)))]
    templates = [_config_map(each) for each in fitting if each.chat_template]
    files = {table()["format"][kind]["file"]: documents, **({TEMPLATES_FILE: templates} if templates else {})}
    return {name: text_of(content) for name, content in files.items()}


class _Plain(yaml.SafeDumper):
    """YAML without anchors: parts that occur twice are written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


def text_of(documents: Sequence[Any]) -> str:
    """Return YAML documents as text."""
    return yaml.dump_all(documents, Dumper=_Plain, sort_keys=False, width=120)


def fits(kind: Format, workload: Workload) -> bool:
    """Return whether a format can describe a workload: a model over several hosts is a LeaderWorkerSet, any other one is not."""
    return (workload.size > 1) == (kind == "lws")


def _production_stack(found: Sequence[Workload], digest: str | None) -> Any:
    values, entry = _template("production-stack.yaml")
    models = []
    for each in found:
        repository, tag = image_of(each, digest)
        selector = _node_selector(each)
        terms = [{"key": key, "operator": "In", "values": [value]} for key, value in selector.items()]
        words = each.words(*(_OPTIONS[name] for name in ("tensor", "dtype", "max_model_len", "memory_share")))
        length, share = each.value("--max-model-len"), each.value("--gpu-memory-utilization")
        models.append(
            filled(
                entry,
                _common(each)
                | {
                    "repository": repository,
                    "tag": tag,
                    "model": _path(each),
                    # The chart's default is the class of the NVIDIA runtime.
                    "runtime_class": "" if each.platform != "cuda" else None,
                    "node_terms": [{"matchExpressions": terms}] if terms else None,
                    "gpu_resource": table()["gpu"]["resource"].get(each.platform),
                    "hf_token": _reference(HF_TOKEN, "secretName", "secretKey") if each.hf_token else None,
                    "dtype": each.value("--dtype"),
                    "tensor": int(each.value("--tensor-parallel-size") or 1),
                    "max_model_len": int(length) if length else None,
                    "memory_share": float(share) if share else None,
                    "arguments": words,
                    # The chart mounts /dev/shm and names the secrets itself.
                    "environment": _plain(each),
                    "volumes": _volumes(each)[1:],
                    "mounts": _mounts(each)[1:],
                },
            )
        )
    key = _reference(API_KEY, "secretName", "secretKey") if any(each.api_key for each in found) else None
    return filled(values, {"api_key": key, "models": models})


def _lws(each: Workload, image: str) -> list[Any]:
    group, service, container, of_leader = _template("lws.yaml")
    place = ["--nnodes", "$(LWS_GROUP_SIZE)", "--node-rank", "$(LWS_WORKER_INDEX)"]
    place += ["--master-addr", "$(LWS_LEADER_ADDRESS)", "--master-port", str(each.span_port)]
    words = [_path(each), *_revision(each), "--host", "0.0.0.0", "--port", "8000", *each.words(), *place]  # noqa: S104 - in a pod
    values = _common(each) | {"image": image, "size": each.size, "arguments": words}
    address = {"name": "VLLM_HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    values["environment"] = [address, *_environment(each)]
    worker = values | dict.fromkeys(of_leader) | {"arguments": [*words, "--headless"]}
    values |= {"leader": filled(container, values | of_leader), "worker": filled(container, worker)}
    return [filled(group, values), filled(service, values)]


def _kserve(each: Workload, image: str) -> list[Any]:
    (service,) = _template("kserve.yaml")
    tensor, traces = each.value(_OPTIONS["tensor"]), each.value(_OPTIONS["traces"])
    words = each.words(*(_OPTIONS[name] for name in ("tensor", "served_name", "traces")))
    revision = f":{each.revision}" if each.revision else ""
    initializer = {"name": "storage-initializer", "env": [_secret("HF_TOKEN", HF_TOKEN)]}
    values = _common(each) | {
        "image": image,
        "uri": f"hf://{each.model}{revision}" if each.on_hub else f"pvc://{CLAIM}/{each.model}",
        "served_name": each.served_name,
        "tensor": int(tensor) if tensor else None,
        "tracing": {"exporterEndpoint": traces} if traces else None,
        "initializers": [initializer] if each.hf_token and each.on_hub else None,
        # KServe's command is read by a shell.
        "arguments": [shlex.quote(word) for word in words],
        "environment": [item for item in _environment(each) if item["name"] != "HF_TOKEN"],
        "volumes": [item for item in _volumes(each) if item["name"] != CLAIM],
        "mounts": [item for item in _mounts(each) if item["name"] != CLAIM],
    }
    return [filled(service, values)]


def _common(each: Workload) -> dict[str, Any]:
    """Return values that several formats have."""
    gpus = {table()["gpu"]["resource"][each.platform]: str(each.gpus)} if each.gpus else {}
    return {
        "name": each.name,
        "replicas": each.replicas,
        "revision": each.revision,
        "cores": each.cores,
        "memory": f"{each.memory_gib}Gi",
        "gpus": each.gpus,
        "requests": {"cpu": str(each.cores), "memory": f"{each.memory_gib}Gi", **gpus},
        "limits": gpus,
        "shared_memory": SHARED_MEMORY,
        "node_selector": _node_selector(each),
        "volumes": _volumes(each),
        "mounts": _mounts(each),
    }


def _path(each: Workload) -> str:
    return each.model if each.on_hub else f"{MODELS}/{each.model}"


def _revision(each: Workload) -> list[str]:
    return ["--revision", each.revision] if each.revision else []


def _node_selector(each: Workload) -> dict[str, str]:
    label = table()["gpu"]["label"].get(each.platform)
    return {label: each.product.replace(" ", "-")} if label and each.product else {}


def _plain(each: Workload) -> list[dict[str, Any]]:
    return [{"name": name, "value": value.replace("$(", "$$(")} for name, value in each.environment]


def _environment(each: Workload) -> list[dict[str, Any]]:
    keys = [_secret("VLLM_API_KEY", API_KEY)] if each.api_key else []
    return [*keys, *([_secret("HF_TOKEN", HF_TOKEN)] if each.hf_token else []), *_plain(each)]


def _secret(name: str, secret: tuple[str, str]) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"secretKeyRef": _reference(secret, "name", "key")}}


def _reference(secret: tuple[str, str], *names: str) -> dict[str, str]:
    return dict(zip(names, secret, strict=True))


def _volumes(each: Workload) -> list[dict[str, Any]]:
    """Return the volumes of a pod, that of /dev/shm first."""
    volumes: list[dict[str, Any]] = [{"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": SHARED_MEMORY}}]
    if not each.on_hub:
        volumes.append({"name": CLAIM, "persistentVolumeClaim": {"claimName": CLAIM, "readOnly": True}})
    if each.chat_template:
        volumes.append({"name": "chat-template", "configMap": {"name": f"{each.name}-chat-template"}})
    return volumes


def _mounts(each: Workload) -> list[dict[str, Any]]:
    paths = {"dshm": "/dev/shm", CLAIM: MODELS, "chat-template": TEMPLATES}  # noqa: S108 - in a pod
    return [{"name": volume["name"], "mountPath": paths[volume["name"]]} for volume in _volumes(each)]


def _config_map(each: Workload) -> dict[str, Any]:
    metadata, data = {"name": f"{each.name}-chat-template"}, {CHAT_TEMPLATE: each.chat_template}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def endpoints_of(hosts: Sequence[Host], facts: Mapping[str, HostFacts]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return the entries of endpoints.yaml, and why hosts have none, by name.

    Args:
        hosts: Hosts that serve, without those of spans that answer no requests.
        facts: By host.
    """
    entries: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    for host in hosts:
        now = readiness_of(facts[host.name]) if host.name in facts else {}
        bind = str(now.get("host", ""))
        address = host.connection.address if bind in ("0.0.0.0", "::") else bind.strip("[]")  # noqa: S104 - compared with
        if not now:
            missing[host.name] = "it serves nothing now"
        elif not _is_reachable(address):
            missing[host.name] = f"the router needs an IPv4 address of it that other machines reach, not `{address}`"
        else:
            labels = {"model": now["served_name"]}
            entries.append({"name": host.name, "address": address, "port": str(now["port"]), "labels": labels})
    return entries, missing


def _is_reachable(address: str | None) -> bool:
    try:
        return not ipaddress.IPv4Address(address or "").is_loopback
    except ValueError:
        return False
