"""Conflicts between settings that are valid on their own, and harmful settings."""

import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

from provision.core.models.settings import HUB_ID, RAY_PORTS, Settings, SourceKind, option_of, speculates
from provision.core.redaction import redact
from provision.core.tables import own_table
from provision.core.user_path import expand_user
from provision.fleet.inventory.addresses import EVERYWHERE

LAST_PORT = 65535
TABLE = Path(__file__).with_name("limits.toml")
_DEFAULTS = Settings()
_INSTEAD = "firstlight_api_key: true makes a key in a file of mode 0600; firstlight_hf_token_file names a token's file"


class Conflict(NamedTuple):
    """A conflict; `setting` is the field to change."""

    setting: str
    text: str
    hint: str


def conflicts(settings: Settings) -> list[Conflict]:
    """Return all conflicts in a fixed order."""
    return [
        *_excluded(settings),
        *_addresses(settings),
        *_arguments(settings),
        *_environment(settings),
        *_adapters(settings),
        *_speculative(settings),
        *_sources(settings),
        *_parallel(settings),
        *_span(settings),
        *_shared_address(settings),
        *_budgets(settings),
        *_firewall(settings),
    ]


def _excluded(settings: Settings) -> Iterator[Conflict]:
    """Refuse settings that exclude one another, by the rows of the table."""
    changed = {name for name, value in settings if value != getattr(_DEFAULTS, name)}
    for row in own_table(TABLE)["excluded"]:
        is_so = changed.issuperset(row.get("changed", ())) and changed.isdisjoint(row.get("default", ()))
        is_reached = "reached_at" not in row or _is_loopback(getattr(settings, row["reached_at"])) is False
        if is_so and is_reached:
            yield Conflict(row["setting"], row["text"].format_map(dict(settings)), row["hint"])


def _addresses(settings: Settings) -> Iterator[Conflict]:
    for setting in ("bind", "gateway_bind", "metrics_bind", "monitoring_bind"):
        address = getattr(settings, setting)
        if address is not None and _is_loopback(address) is None:
            yield Conflict(setting, f"{address!r} is no IP address", "allowed: an IP address or localhost")


def _is_loopback(bind: str) -> bool | None:
    """Return whether only the machine itself reaches an address; None for a text that is no address."""
    try:
        return bind == "localhost" or ipaddress.ip_address(bind).is_loopback
    except ValueError:
        return None


def _adapters(settings: Settings) -> Iterator[Conflict]:
    if not settings.lora:
        return
    if settings.served_model_name in settings.lora:
        yield Conflict(
            "lora", f"{settings.served_model_name} is the name of the model", "give the adapter another name"
        )
    if any(_named(*pair, ("--lora-modules",)) for pair in _with_following(settings.vllm_args)):
        yield Conflict(
            "lora", "firstlight_vllm_args has --lora-modules too, of which vLLM reads one", "name all adapters here"
        )


def _speculative(settings: Settings) -> Iterator[Conflict]:
    given = settings.speculative
    if not given:
        return
    if settings.draft is None and "method" not in given:
        hint = "name one, such as {model: org/draft, num_speculative_tokens: 4} or {method: ngram, num_speculative_tokens: 4}"
        yield Conflict("speculative", "neither a draft model nor a method is named", hint)
    if settings.draft is not None and settings.model_on_host is not None:
        text = f"a draft model is sent with the model, and the model is linked from {settings.model_on_host}"
        yield Conflict("speculative", text, "leave firstlight_model_on_host out")
    if speculates(settings.vllm_args):
        yield Conflict(
            "speculative", "firstlight_vllm_args asks for speculative decoding too", "name all of its values here"
        )


def _sources(settings: Settings) -> Iterator[Conflict]:
    sources = {kind: settings.source_of(kind) for kind in get_args(SourceKind)}
    if "path" in sources.values() and settings.source_folder is None:
        yield Conflict(
            "source",
            "`path` copies from a folder of the host, and no folder is named",
            "set firstlight_source_folder to its path on the hosts, such as /mnt/share/firstlight",
        )
    if isinstance(settings.source, dict) and sources["interpreter"] == "host":
        yield Conflict(
            "source",
            "{interpreter: host} cannot be: the interpreter's archive is packed by the controller, and no index has it",
            "leave interpreter out, or set it to controller, peers or path",
        )


def _shared_address(settings: Settings) -> Iterator[Conflict]:
    if settings.gateway_address is None:
        return
    try:
        shared = ipaddress.ip_interface(settings.gateway_address)
    except ValueError:
        shared = None
    if shared is None or "/" not in settings.gateway_address or shared.ip.is_loopback or shared.ip.is_multicast:
        text = f"{settings.gateway_address!r} is no address of a host with the length of its network's prefix"
        yield Conflict("gateway_address", text, "such as 10.0.0.9/24")
    elif settings.gateway_bind not in (EVERYWHERE if shared.version == 4 else EVERYWHERE[1:]):
        text = f"the gateway listens on {settings.gateway_bind} alone, and clients are to use {shared.ip}"
        hint = "leave firstlight_gateway_bind out: 0.0.0.0; for an IPv6 address set it to '::'"
        yield Conflict("gateway_bind", text, hint)


def _budgets(settings: Settings) -> Iterator[Conflict]:
    for setting in ("gateway_tokens_per_minute", "gateway_tokens_per_day"):
        named = getattr(settings, setting)
        for name in named if isinstance(named, dict) else ():
            if name not in settings.gateway_clients:
                hint = f"the clients are those of firstlight_gateway_clients: {', '.join(settings.gateway_clients)}"
                yield Conflict(setting, f"{name!r} is no client of the gateway", hint)


def _firewall(settings: Settings) -> Iterator[Conflict]:
    for address in settings.firewall_accept:
        try:
            ipaddress.ip_network(address, strict=False)
        except ValueError:
            hint = "allowed: a list of IP addresses and networks such as 10.0.0.0/24"
            yield Conflict("firewall_accept", f"{address!r} is no IP address and no network", hint)


def _arguments(settings: Settings) -> Iterator[Conflict]:
    table = own_table(TABLE)
    is_of_hub = HUB_ID.fullmatch(settings.model) and not expand_user(settings.model).is_dir()
    of_hub = table["refused_of_hubs"] if is_of_hub else {}
    owned, refused, secret = table["owned"], table["refused"] | of_hub, table["secret"]["arguments"]
    for argument, following in _with_following(settings.vllm_args):
        option = _named(argument, following, (*owned, *refused, *secret))
        shown = argument if option in (None, option_of(argument), *of_hub) else f"{argument} (short for {option})"
        if option in secret:
            text = f"{option!r} would put a secret among the arguments, where every user of the host reads it"
            yield Conflict("vllm_args", text, _INSTEAD)
        elif redact(argument) != argument:
            text = f"{redact(argument)!r} holds what looks like a secret, and every user of the host reads a process's arguments"
            yield Conflict("vllm_args", text, _INSTEAD)
        elif option in owned:
            setting = f"firstlight_{owned[option]}"
            yield Conflict("vllm_args", f"{shown!r} is decided by {setting}", f"set {setting} instead")
        elif option in refused:
            yield Conflict("vllm_args", f"{shown!r}: {refused[option]['why']}", refused[option]["do"])


def _with_following(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each argument with the one behind it; the last one with an empty text."""
    return zip(arguments, (*arguments[1:], ""), strict=False)


def _named(argument: str, following: str, options: Iterable[str]) -> str | None:
    """Return the option that an argument means: full name, abbreviation as in argparse, JSON key, or the option with this value."""
    name, _, key = option_of(argument).partition(".")
    value = argument.partition("=")[2] if "=" in argument else following
    if not name.startswith("-") or not name.strip("-"):
        return None
    for option in sorted(options, key=lambda option: option.partition(".")[0] != name):
        full, _, part = option.partition(".")
        if full.startswith(name) and (key == part or (part and not key and (value == part or f'"{part}"' in value))):
            return option
    return None


def _environment(settings: Settings) -> Iterator[Conflict]:
    owned = own_table(TABLE)["owned_environment"]
    pattern = re.compile(own_table(TABLE)["secret"]["name"])
    for name, value in settings.env.items():
        if pattern.search(name) or redact(value) != value:
            text = f"{name} looks like a secret, and these variables are written to the run's records"
            yield Conflict("env", text, _INSTEAD)
        elif name in owned:
            setting = f"firstlight_{owned[name]}"
            yield Conflict("env", f"{name} is decided by {setting}", f"set {setting} instead")


def _parallel(settings: Settings) -> Iterator[Conflict]:
    if settings.gpus == "all":
        return
    if len(set(settings.gpus)) != len(settings.gpus) or not settings.gpus:
        text = f"{list(settings.gpus)} names no GPU, or one twice"
        yield Conflict("gpus", text, "allowed: all, or a list of different indexes")
        return
    asked = (settings.tensor_parallel or 1) * settings.pipeline(on_cpu=False) * settings.data_parallel
    slices = [name for name in settings.gpus if isinstance(name, str)]
    if slices and max(len(settings.gpus), asked) > 1:
        yield Conflict(
            "gpus",
            f"{list(settings.gpus)}: a model is served on one slice alone, as a process sees one, and none is split over several",
            f'name one slice, such as ["{slices[0]}"], for a model that is not split, or name whole GPUs',
        )
        return
    named = len(settings.gpus) * settings.span
    if asked > named:
        of = f" on {settings.span} hosts" if settings.span > 1 else ""
        text = f"{named} GPUs{of} are named, and tensor, pipeline and data parallel together want {asked}"
        hint = "name more GPUs, or lower firstlight_tensor_parallel, firstlight_pipeline_parallel or firstlight_data_parallel"
        yield Conflict("gpus", text, hint)


def _span(settings: Settings) -> Iterator[Conflict]:
    if settings.span_address is not None and _is_loopback(settings.span_address) is not False:
        text = f"{settings.span_address!r} is no IP address at which other hosts reach this one"
        yield Conflict("span_address", text, "name the host's address in the network between the hosts")
    if settings.span == 1:
        return
    if settings.executor == "ray" and settings.ray_ports[1] > LAST_PORT:
        text = f"{settings.span_port} leaves too few ports for Ray, which listens on {RAY_PORTS} after these two"
        yield Conflict("span_port", text, f"name one of at most {LAST_PORT - 1 - RAY_PORTS}")
    refused = own_table(TABLE)["refused_of_spans"]
    for argument, following in _with_following(settings.vllm_args):
        if option := _named(argument, following, refused):
            yield Conflict("vllm_args", f"{argument!r}: {refused[option]['why']}", refused[option]["do"])
    # A size that is not given is chosen so that it fits.
    asked = (settings.tensor_parallel or settings.span) * (settings.pipeline_parallel or settings.span)
    if asked % settings.span:
        text = f"tensor and pipeline parallel together want {asked} processes, which cannot be divided by {settings.span} hosts"
        hint = "leave firstlight_pipeline_parallel out: each host then has an equal part of the layers"
        yield Conflict("span", text, hint)
