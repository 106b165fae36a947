"""Command line and environment of vLLM: a function of Stack, settings, facts and model only.

Volatile values (free memory, running processes) are excluded, so that a host gives the same command on every run.
Secrets are excluded: the server gets the API key from the 0600 file of its service.
"""

import json
from dataclasses import dataclass
from pathlib import PurePath

from provision.core import features
from provision.core.errors import ServeError
from provision.core.models.base import Record
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Span
from provision.core.models.settings import CHAT_TEMPLATE, HUB_ID, SPECULATIVE, Settings
from provision.core.models.stack import FlashInferPlan, Stack
from provision.phases.plan.fit.tables import lacks_bfloat16
from provision.phases.serve import start_cache
from provision.phases.serve.devices import Devices, choose_devices
from provision.phases.serve.model import ServedModel
from provision.phases.serve.options import has, options, peer_write_switches, without_peer_writes

PLUGIN = "firstlight_attention"
KEY_GUARD = f"{PLUGIN}.access.RequireKey"
"""Requires the API key on every route: vLLM's own check leaves inference routes outside `/v1` open."""


PARSERS = ("tool_parser", "reasoning_parser")
"""Choices about the text that a model makes."""


class SpanMember(Record):
    """One host's part in a span, as a feature makes it (`span_member` of its hooks)."""

    place: tuple[str, ...]
    """What distinguishes the service of this host from those of the others."""
    agreement: str
    """Digest of what all hosts of the span have to have in common."""
    is_headless: bool
    """Whether its server answers no requests."""
    options: tuple[str, ...]
    """Arguments of `vllm serve`."""
    environment: dict[str, str]
    launcher: tuple[str, ...]
    """The command that starts the server with those of the other hosts; the server's own command follows it."""
    has_server: bool
    """Whether vLLM's server runs on this host."""


def name_in_api(settings: Settings, staged: str) -> str:
    """Return the name by which clients ask for a model, which stays when its files change.

    It is the one of the settings, else its hub id without the revision, or the name of its folder.

    Args:
        staged: Name of the model's folder on the host, which is also that of the built-in model in the API.
    """
    if settings.served_model_name is not None:
        return settings.served_model_name
    if settings.model == "builtin":
        return staged
    hub_id = settings.model.partition("@")[0]
    return hub_id if HUB_ID.fullmatch(hub_id) else PurePath(settings.model).name or staged


@dataclass(frozen=True)
class _Given:
    """What a command is made from."""

    stack: Stack
    settings: Settings
    facts: HostFacts
    prefix: str
    model: ServedModel
    devices: Devices
    is_shared: bool
    vllm: str
    """Its version."""

    @property
    def is_eager(self) -> bool:
        is_builtin_on_cpu = self.model.kind == "builtin" and self.devices.platform == "cpu"
        return is_builtin_on_cpu and bool(options()["builtin"]["eager_on_cpu"])


class ServeCommand(Record):
    """Command, environment and devices of the service."""

    argv: tuple[str, ...]
    environment: dict[str, str]
    devices: Devices
    served_name: str
    span: SpanMember | None = None
    """This host's part in a span; None where the host serves alone."""
    start_cache: str | None = None
    """Key of what it compiles when it starts; None where it compiles nothing."""


def serve_command(
    stack: Stack,
    settings: Settings,
    facts: HostFacts,
    *,
    prefix: str,
    model: ServedModel,
    peer_writes: bool = True,
    is_shared: bool = False,
    span: Span | None = None,
    content: str = "",
) -> ServeCommand:
    """Return the `vllm serve` command for one host.

    Args:
        peer_writes: Whether GPUs may write to one another's memory.
        is_shared: Whether the machine has other services, so that `facts` are those of a part of it.
        span: The hosts that the model is spread over.
        content: What the hosts of a span have in common beside the command: digest of the environment.

    Raises:
        InventoryError: The GPUs do not suffice.
        ServeError: The Stack has no vLLM.
    """
    if stack.vllm is None or stack.attention is None:
        raise ServeError("the plan has no vLLM to serve with", hint="set firstlight_vllm to `latest` or a version")
    devices = choose_devices(stack, settings, facts, attention_heads=model.attention_heads)
    given = _Given(stack, settings, facts, prefix, model, devices, is_shared, stack.vllm.version)
    served_name = name_in_api(settings, model.name)
    split = ["--dtype", _dtype(stack, settings, devices), *_split_options(devices), *_length_options(given)]
    attention = stack.attention.flag or stack.attention.backend
    # Older releases read an environment variable instead.
    has_option = has("attention", given.vllm)
    manner = [
        *(("--chat-template", f"{model.folder(prefix)}/{CHAT_TEMPLATE}") if settings.chat_template else ()),
        *_adapter_options(model, prefix),
        *(options()["lora"]["on_cpu"] if model.adapters and devices.platform == "cpu" else ()),
        *_speculative_options(settings, model, prefix),
        *((options()["attention"]["option"], attention) if has_option else ()),
        *(
            word
            for choice in (stack.serving.choices if stack.serving else ())
            if model.task == "generate" or choice.name not in PARSERS
            for word in choice.flags
        ),
        *(("--middleware", KEY_GUARD) if settings.api_key else ()),
    ]
    if given.is_eager:
        manner.append("--enforce-eager")
    # The size of the cache may differ: vLLM takes the smallest of all processes.
    agreed = (content, model.name, served_name, *split, *manner, *settings.vllm_args)
    member: SpanMember | None = None
    if span is not None:
        member = features.first(
            "span_member", span, settings, name=facts.host, agreed=agreed, prefix=prefix, devices=devices
        )
    argv = [
        f"{prefix}/current/bin/vllm",
        "serve",
        model.folder(prefix),
        "--served-model-name",
        served_name,
        "--host",
        settings.bind,
        "--port",
        str(settings.port),
        *split,
        *_memory_options(given),
        *manner,
        *(member.options if member else ()),
        *(("--otlp-traces-endpoint", settings.otlp_traces_endpoint) if settings.otlp_traces_endpoint else ()),
    ]
    more, switches = settings.vllm_args, {}
    if devices.processes > 1 and devices.platform != "cpu" and not peer_writes:
        more, switches = without_peer_writes(given.vllm, more), peer_write_switches(given.vllm)
    if not has_option:
        switches = {options()["attention"]["environment_before"]: attention} | switches
    key = start_cache.key_of(
        facts,
        devices,
        prefix=prefix,
        served=(content, model.name, *(member.place if member else ()), *split, *manner, *more),
        variables=switches | _environment(given, start=""),
    )
    environment = switches | _environment(given, start=start_cache.folder_of(prefix, key))
    if member is not None:
        environment |= {**member.environment, **{name: environment[name] for name in settings.env}}
    return ServeCommand(
        argv=(*argv, *more),
        environment=dict(sorted(environment.items())),
        devices=devices,
        served_name=served_name,
        span=member,
        start_cache=None if devices.platform == "cpu" and "--enforce-eager" in (*manner, *more) else key,
    )


def _dtype(stack: Stack, settings: Settings, devices: Devices) -> str:
    """Return the setting; replace `auto` for GPUs that cannot compute in bfloat16, by what the plan says of the model."""
    if settings.dtype == "auto" and lacks_bfloat16(devices.compute_capability):
        return "float32" if stack.model and "--dtype" in stack.model.flags else "float16"
    return settings.dtype


def _split_options(devices: Devices) -> list[str]:
    sizes = {
        "--tensor-parallel-size": devices.tensor_parallel,
        "--pipeline-parallel-size": devices.pipeline_parallel,
        "--data-parallel-size": devices.data_parallel,
    }
    return [word for option, size in sizes.items() if size > 1 for word in (option, str(size))]


def _length_options(given: _Given) -> list[str]:
    """Return the requested length, else the plan's length if the model's own does not fit."""
    length, plan = given.settings.max_model_len, given.stack.model
    if length is None and plan is not None and "--max-model-len" in plan.flags:
        length = plan.max_model_len
    if length is None and given.model.kind == "builtin":
        length = options()["builtin"]["max_model_len"]
    return [] if length is None else ["--max-model-len", str(length)]


def _adapter_options(model: ServedModel, prefix: str) -> tuple[str, ...]:
    """Return the options of LoRA adapters: one batch may have requests for all of them. vLLM refuses a rank above the largest."""
    if not model.adapters:
        return ()
    ranks = options()["lora"]["ranks"]
    largest = max(model.adapters.values())
    rank = str(next((rank for rank in ranks if rank >= largest), largest))
    modules = [f"{name}={model.adapter_folder(prefix, name)}" for name in model.adapters]
    return ("--enable-lora", "--max-loras", str(len(modules)), "--max-lora-rank", rank, "--lora-modules", *modules)


def _speculative_options(settings: Settings, model: ServedModel, prefix: str) -> tuple[str, ...]:
    """Return the option of speculative decoding, with the draft model that was sent, or that vLLM fetches itself."""
    if not settings.speculative:
        return ()
    name, _, revision = (settings.draft or "").partition("@")
    placed = {"model": name, "revision": revision} if revision else {}
    if model.has_draft:
        placed = {"model": f"{model.folder(prefix)}/{settings.draft_folder}"}
    return (SPECULATIVE, json.dumps(settings.speculative | placed, sort_keys=True))


def _memory_options(given: _Given) -> list[str]:
    share = given.settings.memory_share
    if share is None and given.model.kind == "builtin" and given.devices.platform != "cpu":
        share = options()["builtin"]["memory_share"]
    words = [] if share is None else ["--gpu-memory-utilization", str(share)]
    cache = _cache_bytes(given)
    if cache is not None and has("kv_cache_bytes", given.vllm):
        words += [options()["kv_cache_bytes"]["option"], str(cache)]
    return words


def _cache_bytes(given: _Given) -> int | None:
    """Return the size of the key-value cache; None where vLLM chooses it."""
    if given.model.kind == "builtin":
        return int(options()["builtin"]["kv_cache_bytes"])
    if given.devices.platform != "cpu" or given.settings.memory_share is not None:
        return None
    if given.stack.model and given.stack.model.device_cache_bytes:
        return given.stack.model.device_cache_bytes
    row = options()["cpu"]
    return max(int((given.facts.memory.usable or 0) * row["kv_cache_share"]), int(row["kv_cache_least_bytes"]))


def _environment(given: _Given, *, start: str) -> dict[str, str]:
    """Return our variables overridden by the user's; a list of allowed plugins always includes ours. `start` is the start cache."""
    stack, settings, devices, prefix = given.stack, given.settings, given.devices, given.prefix
    assert stack.attention is not None
    cache = f"{prefix}/cache"
    values = {
        # Default for caches that are not named below; the service's account has no writable home.
        "HOME": cache,
        **start_cache.variables_of(start),
        "HF_HOME": f"{cache}/huggingface",
        # Byte code is listed when the environment is built; a service with write permission must not add any.
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "FIRSTLIGHT_PROOF_DIR": f"{prefix}/run",
        # A forked engine inherits locks and CUDA state; a spawned one also loads the plugin itself.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        # All processes are on one host; loopback does not depend on addresses that come and go.
        "VLLM_HOST_IP": "127.0.0.1",
        **_device_environment(devices, settings, start),
        **{name: value.replace("{cache}", start) for name, value in stack.attention.environment.items()},
    }
    values |= _flashinfer(stack.flashinfer, prefix)
    if devices.platform == "cpu":
        if given.is_shared:
            threads = str(given.facts.cpu.logical or 1)
            values |= {**options()["services"]["cpu_environment"], "OMP_NUM_THREADS": threads}
        if given.model.kind == "builtin":
            values |= options()["builtin"]["cpu_environment"]
        if given.is_eager:
            values |= options()["builtin"]["eager_environment"]
        elif has("aot_compile", given.vllm):
            values |= options()["aot_compile"]["off"]
    values |= settings.env
    if stack.cuda_compat is not None:
        # Only for the service: a host-wide setting would hide the libraries of the host's own driver (error 803).
        others = [folder for folder in (values.get("LD_LIBRARY_PATH"),) if folder]
        values["LD_LIBRARY_PATH"] = ":".join([stack.cuda_compat.folder, *others])
    if "VLLM_PLUGINS" in values:
        names = [name for name in values["VLLM_PLUGINS"].split(",") if name and name != PLUGIN]
        values["VLLM_PLUGINS"] = ",".join([*names, PLUGIN])
    return values


def _flashinfer(plan: FlashInferPlan | None, prefix: str) -> dict[str, str]:
    """Return the variables without kernels that a host compiles, or those that find nvcc and the environment's ninja: a service's own PATH has neither."""
    row = options()["flashinfer"]
    if plan is None:
        return {}
    if plan.kernels != "compiled":
        return {**row["without_nvcc"], **(row["off"] if plan.kernels == "off" else {})}
    home = plan.toolkit or row["toolkit"]
    return {"CUDA_HOME": home, "PATH": ":".join([f"{prefix}/current/bin", f"{home}/bin", *row["path"]])}


def _device_environment(devices: Devices, settings: Settings, start: str) -> dict[str, str]:
    """Select GPUs by index, and a slice by its UUID. A container has no others, so nothing is to be selected there."""
    listed = ",".join(map(str, devices.indexes))
    if devices.platform != "cuda":
        return {"HIP_VISIBLE_DEVICES": listed} if devices.platform == "rocm" else {}
    values = {"CUDA_CACHE_PATH": f"{start}/cuda"}
    if settings.runtime != "podman":
        values["CUDA_VISIBLE_DEVICES"] = (devices.part.uuid or "") if devices.part else listed
    if settings.runtime != "podman" or not devices.part:
        values["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    return values
