"""What a fleet serves, as workloads of a cluster: equal hosts are replicas of one."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Any

from provision.catalog.load import catalog
from provision.catalog.versions import numbers, platform_of
from provision.core.errors import InventoryError
from provision.core.formatting import GIB
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.core.models.settings import CHAT_TEMPLATE
from provision.core.models.stack import Stack, VllmBuild
from provision.core.tables import own_table
from provision.core.user_path import expand_user
from provision.phases.plan.family.families import task_of
from provision.phases.serve.command_line import ServeCommand, name_in_api, serve_command
from provision.phases.serve.devices import Platform
from provision.phases.serve.model import ServedModel

HERE = Path(__file__).parent
TEMPLATE_OPTION = ("--chat-template", f"/mnt/chat-template/{CHAT_TEMPLATE}")


def table() -> dict[str, Any]:
    """Return images, resources and formats (kubernetes.toml)."""
    return own_table(HERE / "kubernetes.toml")


def escaped(text: str) -> str:
    """Return a text that Kubernetes takes as it is: it reads `$(NAME)` in arguments and variables."""
    return text.replace("$(", "$$(")


@dataclass(frozen=True)
class Workload:
    """One model as a cluster serves it."""

    name: str
    """Of the objects: a label of DNS."""
    hosts: tuple[str, ...]
    """Names in the inventory."""
    served_name: str
    model: str
    """Id on the hub, or the name of a folder that the cluster does not have yet."""
    revision: str | None
    on_hub: bool
    version: str
    """Release of vLLM."""
    tag: str
    """Of its image."""
    platform: Platform
    product: str | None
    """Model of the GPUs, as their driver prints it."""
    size: int
    """Pods that serve one copy together."""
    gpus: int
    """Of each pod."""
    is_slice: bool
    """Whether its GPU is a slice of one."""
    generates: bool
    """Whether it makes text."""
    cores: int
    memory_gib: int
    options: tuple[tuple[str, ...], ...]
    """Arguments of vLLM, each option with its values."""
    given: tuple[str, ...]
    """The user's own arguments, which come last."""
    environment: tuple[tuple[str, str], ...]
    dropped: tuple[str, ...]
    """Names of variables that mean nothing in a pod."""
    chat_template: str | None
    """Its text."""
    api_key: bool
    hf_token: bool
    span_port: int

    @property
    def replicas(self) -> int:
        """Return how many copies of the model the fleet has."""
        return len(self.hosts) // self.size

    def value(self, option: str) -> str | None:
        """Return the value of an option; None where it is not given."""
        return next((words[1] for words in self.options if words[0] == option), None)

    def words(self, *but: str) -> list[str]:
        """Return the arguments without those that a format has fields for."""
        own = (word for words in self.options if words[0] not in but for word in words)
        return [escaped(word) for word in (*own, *self.given)]


def workloads(hosts: Sequence[Host], facts: Mapping[str, HostFacts], stacks: Mapping[str, Stack]) -> list[Workload]:
    """Return the workloads of hosts that serve, in inventory order. Hosts without a Stack, and all but the first of a span, are passed over.

    Raises InventoryError where a host serves the built-in model or with a wheel that no image has, its GPUs do not suffice, or two folders of
    models have the same name.
    """
    folders: dict[str, Path] = {}
    alike: dict[Workload, list[str]] = {}
    known: dict[tuple[str | None, ...], str] = {}
    for host in hosts:
        if host.name in facts and (now := _served_now(host, facts[host.name])):
            known.setdefault(host.model_key, now)
    for host in hosts:
        if host.name in stacks and host.is_serving and host.name == host.head:
            workload = _workload(host, facts[host.name], stacks[host.name], known.get(host.model_key))
            folder = expand_user(host.settings.model).resolve()
            if not workload.on_hub and folders.setdefault(workload.model, folder) != folder:
                raise InventoryError(
                    f"the folders {folders[workload.model]} and {folder} have the same name, which models have in the cluster",
                    hint="rename one of them, or export their hosts by --limit into folders of their own",
                )
            alike.setdefault(workload, []).extend(host.span.members if host.span else [host.name])
    found: dict[str, Workload] = {}
    for workload, names in alike.items():
        numbered = chain([workload.name], (f"{workload.name}-{number}" for number in count(2)))
        name = next(name for name in numbered if name not in found)
        found[name] = replace(workload, name=name, hosts=tuple(names))
    return [*found.values()]


def _workload(host: Host, facts: HostFacts, stack: Stack, known: str | None) -> Workload:
    """Return what a host serves; `known` is the model's name at an equal host."""
    settings = host.settings
    if settings.model == "builtin":
        raise InventoryError(
            f"host `{host.name}` serves the built-in model, which no image has",
            hint="name a model of the hub or a folder: --model org/name",
        )
    if stack.vllm and stack.vllm.wheel:
        raise InventoryError(
            f"host `{host.name}` serves with `{stack.vllm.wheel.name}`, which no image of vLLM has",
            hint="name a release: --vllm 0.33.0",
        )
    folder = expand_user(settings.model)
    on_hub = not folder.is_dir()
    model, _, revision = settings.model.partition("@") if on_hub else (folder.resolve().name, "", "")
    served = settings.served_model_name or _served_now(host, facts) or known or name_in_api(settings, model)
    # Its files are not read here: a reranker's one label is taken as given.
    config = {"architectures": [stack.model.architecture if stack.model else ""], "num_labels": 1}
    described = ServedModel(kind="files", name=served, task=task_of(config, (), settings.vllm_args))
    command = serve_command(stack, settings, facts, prefix="/", model=described)
    assert stack.vllm is not None
    assert stack.attention is not None
    attention = stack.attention.environment
    taken = {*table()["environment"]["taken"], *(name for name, value in attention.items() if "{cache}" not in value)}
    environment = {name: value for name, value in command.environment.items() if name in taken} | settings.env
    devices, cards = command.devices, facts.nvidia.gpus if facts.nvidia else ()
    template = Path(settings.chat_template).read_text(encoding="utf-8") if settings.chat_template else None
    name = re.sub(r"[^a-z0-9]+", "-", served.rpartition("/")[2].lower()).strip("-")
    return Workload(
        name=re.sub(r"^(?![a-z])", "model-", name)[:40].rstrip("-"),  # a Service's begins with a letter
        hosts=(),
        served_name=served,
        model=model,
        revision=revision or None,
        on_hub=on_hub,
        version=stack.vllm.version,
        tag=_tag(stack.vllm),
        platform=devices.platform,
        product=next((card.name for card in cards if card.index in devices.indexes), None),
        size=settings.span,
        gpus=0 if devices.platform == "cpu" else devices.processes,
        is_slice=devices.part is not None,
        generates=described.task == "generate",
        cores=table()["cpu"]["processes"] * devices.data_parallel + devices.processes,
        memory_gib=_memory_gib(stack, command),
        options=(*_options(command, len(settings.vllm_args)), *([TEMPLATE_OPTION] if template is not None else [])),
        given=settings.vllm_args,
        environment=tuple(sorted(environment.items())),
        dropped=tuple(sorted(command.environment.keys() - environment.keys())),
        chat_template=template,
        api_key=settings.api_key,
        hf_token=settings.hf_token_file is not None,
        span_port=settings.span_port,
    )


def _tag(build: VllmBuild) -> str:
    """Return the tag of a release's image; that of another CUDA, or an older ROCm, than the release's own has it at its end."""
    own = {row.version: f"cu{row.cuda.replace('.', '')}" for row in catalog().releases}.get(build.version)
    if platform_of(build.variant) == "rocm":
        variants = [row.variant for row in catalog().builds if row.version == build.version]
        own = max(filter(lambda variant: platform_of(variant) == "rocm", variants), key=numbers, default=None)
    is_other = build.variant != "cpu" and own is not None and build.variant != own
    return f"v{build.version}-{build.variant.replace('.', '')}" if is_other else f"v{build.version}"


def _served_now(host: Host, facts: HostFacts) -> str | None:
    """Return the name by which clients know a model: that of the host's service; None where it serves another model, or none."""
    now = str(readiness_of(facts).get("served_name", ""))
    name = expand_user(host.settings.model).name.partition("@")[0]
    return now if re.fullmatch(re.escape(name) + r"-[0-9a-f]{8}", now) else None


def readiness_of(facts: HostFacts) -> dict[str, Any]:
    """Return what a host says that it serves; nothing where it serves nothing."""
    state = facts.installed.state if facts.installed else None
    return (state or {}).get("readiness") or {}


def _memory_gib(stack: Stack, command: ServeCommand) -> int:
    """Return what a pod needs: as much as the plan asks of a host, and room for its part of the weights; on CPUs also the cache."""
    devices, needed = command.devices, 0.0
    if stack.model:
        cache = (stack.model.device_cache_bytes or 0) if devices.platform == "cpu" else 0
        needed = stack.model.weights_bytes / devices.hosts + cache
    return math.ceil(catalog().needs[devices.platform].memory + needed / GIB)


def _options(command: ServeCommand, given: int) -> tuple[tuple[str, ...], ...]:
    """Return the product's own arguments, without those that belong to the host; `given` of the last are the user's."""
    words = command.argv[3 : len(command.argv) - given]
    starts = [place for place, word in enumerate(words) if word.startswith("--")]
    ends = [*starts[1:], len(words)]
    options = [words[start:end] for start, end in zip(starts, ends, strict=True)]
    return tuple(each for each in options if each[0] not in table()["arguments"]["left"])
