"""The settings of one host.

Every inventory variable is `firstlight_` plus a field's name of `Settings`; docs/reference/inventory.md lists them.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BeforeValidator, Field

from provision.core.models.base import Record

OPTIONS = {
    "model": "--model",
    "vllm": "--vllm",
    "driver": "--driver",
    "flash_attn": "--flash-attn",
    "flash_attn_wheels": "--flash-attn-wheels",
    "attention": "--attention",
    "bind": "--host",
    "port": "--port",
    "reboot": "--reboot",
    "prefix": "--prefix",
}
"""Settings that have an option of their own; every other one is given by `--set NAME=VALUE`."""
RAY_PORTS = 80
"""Ports of Ray on one host: eight of its own programs, and one for each process that it starts."""
CHOSEN_PORTS = (32768, 60999)
"""First and last of the ports that Linux gives to processes that ask for any, by default: https://docs.kernel.org/networking/ip-sysctl.html,
ip_local_port_range. Tried with vLLM 0.32.0 on two hosts: besides the two ports of `firstlight_span_port`, its processes listen
on such ports alone, at the addresses of the span: message queues and gloo."""


@dataclass(frozen=True)
class Allowed:
    """The values of a type, as error messages and the reference page call them."""

    text: str


def _number(value: Any) -> Any:
    """Reject booleans, which Python accepts as numbers. Raises ValueError."""
    if isinstance(value, bool):
        raise ValueError("true and false are no numbers")  # noqa: TRY004 - what pydantic takes for a wrong value
    return value


def _exact(value: Any) -> Any:
    """Return a version alone as the requirement of exactly that version, and every other value as it is."""
    is_version = isinstance(value, str) and re.fullmatch(
        r"[0-9]+(\.[0-9]+)+(\.?(a|b|rc|post|dev)[0-9]+)*(\+[a-z0-9.]+)?", value
    )
    return f"=={value}" if is_version else value


def _without_brackets(address: str) -> str:
    """Return an IPv6 address without the brackets that it has in URLs, and every other text as it is."""
    return re.sub(r"^\[([^\[\]]*:[^\[\]]*)\]$", r"\1", address)


Backend = Annotated[
    str,
    Field(pattern=r"^(auto|flash|[A-Z][A-Z0-9_]*)$"),
    Allowed("auto, flash, or a back end's name such as FLASH_ATTN, TRITON_ATTN, CPU_ATTN"),
]
VllmPolicy = Annotated[
    str,
    Field(
        pattern=r"^(latest|newest|none|(==|>=)[0-9]+(\.[0-9]+)*(\.?(a|b|rc|post|dev)[0-9]+)*(\+[a-z0-9.]+)?|.+\.whl|(https?|file)://[^\s/]\S*)$"
    ),
    BeforeValidator(_exact),
    Allowed(
        "latest, newest, none, X or ==X such as 0.33.0, >=X, or a wheel that the tables lack: its path or address, an index's address, or ==X.Y.Z.devN"
    ),
]
TorchPolicy = Annotated[
    str,
    Field(pattern=r"^(managed|existing|==[0-9]+\.[0-9]+\.[0-9]+)$"),
    BeforeValidator(_exact),
    Allowed("managed, existing, or X.Y.Z or ==X.Y.Z such as 2.3.0"),
]
FlashAttnPolicy = Annotated[
    str,
    Field(pattern=r"^(auto|bundled|package|both|none|==[0-9]+(\.[0-9]+)*(\.?(a|b|rc|post|dev)[0-9]+)*)$"),
    BeforeValidator(_exact),
    Allowed("auto, bundled, package, both, none, or X or ==X such as 2.8.3"),
]
DriverPolicy = Annotated[
    str,
    Field(
        coerce_numbers_to_str=True,
        pattern=r"^(keep|install|upgrade|==[0-9]{3}(\.[0-9]+){1,2}|(==)?[0-9]{3}(\.\*)?)$",
    ),
    BeforeValidator(_exact),
    Allowed("keep, install, upgrade, X or ==X such as 580.95.05, or a branch such as 580 or ==580.*"),
]
Prefix = Annotated[
    str, Field(pattern=r"^(/[A-Za-z0-9._+@-]+)+/?$"), Allowed("an absolute path without blanks, not the root folder")
]
File = Annotated[str, Allowed("path of a file on the controller")]
Word = Annotated[str, Field(pattern=r"^\S+$")]
BindAddress = Annotated[Word, AfterValidator(_without_brackets), Allowed("an IP address or localhost")]
Address = Annotated[
    str,
    Field(pattern=r"^(https?://[^\s/]|file:///)\S*$"),
    Allowed("an address that begins with https://, http:// or file:///"),
]
TracesEndpoint = Annotated[
    str,
    Field(pattern=r"^(https?|grpc)://[^\s/@?#]+(/[^\s?#]*)?$"),
    Allowed("an address such as grpc://10.0.0.5:4317 or http://10.0.0.5:4318/v1/traces, without a password"),
]
ToolkitVersion = Annotated[
    str, Field(coerce_numbers_to_str=True, pattern=r"^[0-9]+\.[0-9]+$"), Allowed("a version such as 13.0")
]
Requirement = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9._,-]+\])?((===?|>=|<=|~=|!=|<|>)[^\s;@]+)?$")
]
EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
ServiceName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
ShortName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Text = Annotated[str, Field(coerce_numbers_to_str=True, pattern=r"^[^\n\x00]*$")]
Whole = Annotated[int, BeforeValidator(_number)]
Count = Annotated[Whole, Field(ge=1), Allowed("a whole number from 1")]
Port = Annotated[Whole, Field(ge=1, le=65535), Allowed("a whole number from 1 to 65535")]
Tokens = Annotated[
    Annotated[Whole, Field(ge=1)] | dict[ShortName, Annotated[Whole, Field(ge=1)]],
    Allowed("a whole number of at least 1 for each client, or a mapping of clients to such numbers"),
]
GpuIndex = Annotated[Whole, Field(ge=0)]
GpuSliceName = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]?):(0|[1-9][0-9]?)$")]
"""A slice of a GPU by the indexes of both, as the container toolkit writes it."""
SliceProfile = Annotated[str, Field(pattern=r"^[1-9]g\.[1-9][0-9]*gb([+-][a-z.]+)*$")]
Share = Annotated[float, BeforeValidator(_number)]
Source = Literal["auto", "controller", "peers", "host", "path"]
SourceKind = Literal["wheels", "interpreter", "model"]
"""What comes from a source of its own."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
"""A model of the hub, with its revision or without. Folders of the controller have absolute paths once an inventory is read."""
CHAT_TEMPLATE = "chat_template.jinja"
"""A model's file with its chat template, which transformers prefers to the one in tokenizer_config.json."""
ADAPTERS = "lora"
"""Folder of a model's LoRA adapters in that of the model, with a folder for each, by its name."""
DRAFTS = "draft"
"""Folder of a model's draft model in that of the model. Within it, the draft model has a folder of its own name: vLLM tells `eagle3` and other methods by it (vllm/config/speculative.py, 0.32.0)."""

SPECULATIVE = "--speculative-config"
SPECULATING = (SPECULATIVE, "-sc", "--spec-method", "--spec-model", "--spec-tokens")
"""The options that switch speculative decoding on: vllm/engine/arg_utils.py of 0.32.0, create_speculative_config."""


class Settings(Record):
    """Desired settings of a host, with defaults. The text below a field is its description on the reference page."""

    prefix: Prefix | None = None
    """Installation folder. Default: /opt/firstlight with root, ~/.local/share/firstlight without."""
    services: Annotated[
        dict[ServiceName, dict[str, Any]],
        Allowed(
            "a mapping of names (small letters, digits, `-` and `_`) to settings without their prefix, such as {chat: {model: org/name, port: 8000}}"
        ),
    ] = Field(default_factory=dict)
    """Services of a host that serves several models: each has settings of its own, by their names without `firstlight_`, and takes the host's for the others. Default: one service."""
    model: Annotated[Word, Allowed("builtin, a folder, or a hub id such as org/name or org/name@revision")] = "builtin"
    """Model to serve: the built-in model, a folder on the controller (absolute, or relative to the inventory), or a hub id. The default replaces no other model that a host serves: a run refuses that."""
    model_on_host: Prefix | None = None
    """Folder on the host that has the model's files, such as a share of all hosts. The host compares them with `firstlight_model` and links to them; none are sent."""
    source: Annotated[
        Source | dict[SourceKind, Source],
        Allowed(
            "auto, controller, peers, host or path; or a mapping of wheels, interpreter and model to these, such as {wheels: host, model: path}"
        ),
    ] = "auto"
    """Source of wheels, interpreter and model, or of each kind: the controller, hosts of the run that have them (peers), a package index or model hub of the host (host), or a folder on the host (path). auto: peers where at least four hosts need files and reach each other, else the controller."""
    source_index: Annotated[
        tuple[Address, ...], Allowed("a list of addresses that begin with https://, http:// or file:///")
    ] = ()
    """Package index, or several, of a host with source `host`. Default: those of the controller that ask for no login."""
    source_hub: Address | None = None
    """Model hub of a host with source `host`. Default: the host's HF_ENDPOINT, else the controller's."""
    source_folder: Prefix | None = None
    """Folder on the host that source `path` copies from: files by name, or a copy of the controller's cache."""
    lora: Annotated[
        dict[ShortName, Word],
        Allowed("a mapping of names to folders or hub ids, such as {support: ../adapters/support}"),
    ] = Field(default_factory=dict)
    """LoRA adapters of the model, by the name that requests give as their model: a folder on the controller (absolute, or relative to the inventory), or a hub id. They are sent with the model."""
    speculative: Annotated[
        dict[str, Any],
        Allowed(
            "a mapping such as {model: org/draft, num_speculative_tokens: 4} or {method: ngram, num_speculative_tokens: 4}"
        ),
    ] = Field(default_factory=dict)
    """Speculative decoding: the values of vLLM's `--speculative-config`. `model` is the draft model, a folder on the controller (absolute, or relative to the inventory) or a hub id. It is sent with the model."""
    served_model_name: Annotated[Word, Allowed("text without blanks")] | None = None
    """Model name in the API. Default: the hub id without its revision, or the name of the folder."""
    tool_parser: Annotated[Word, Allowed("auto, none, or the name of a parser of the vLLM version")] = "auto"
    """vLLM's parser of tool calls. auto: the one of the model's family, if it is known; none: no tool calls."""
    reasoning_parser: Annotated[Word, Allowed("auto, none, or the name of a parser of the vLLM version")] = "auto"
    """vLLM's parser of a model's reasoning. auto: the one of the model's family, if it is known; none: reasoning stays in the answer."""
    chat_template: File | None = None
    """File on the controller with a chat template, in Jinja, that replaces the model's own."""
    trust_remote_code: bool = False
    """Whether vLLM may run Python code of the model's repository. A model that needs it is refused otherwise."""
    hf_token_file: File | None = None
    """File on the controller with the token for the model hub; never the token itself."""

    vllm: VllmPolicy = "latest"
    """vLLM version. latest: the newest tested one that fits; newest: the newest one that fits, tested or not. A wheel is read, and what it needs is inferred from it."""
    packages: Annotated[
        tuple[Requirement, ...], Allowed("a list of requirements such as [lmcache==0.4.2, hf-transfer>=0.1.9]")
    ] = ()
    """Further Python packages of the environment. They are locked with all others."""
    accept_advisories: Annotated[tuple[Word, ...], Allowed("a list of ids such as [CVE-2026-22778, NVIDIA-5861]")] = ()
    """Security advisories whose risk you take: the plan and the checks of a host no longer warn of them. It does not let `latest` or a range choose an affected version."""
    driver: DriverPolicy = "keep"
    """NVIDIA driver. keep: a working driver stays, and GPUs without one get one; install: a driver that does not answer is also installed again; upgrade: a driver that is too old for the chosen versions, or lacks security fixes of its branch, is also replaced; or the required version or branch."""
    driver_source: Literal["auto", "vendor", "distribution"] = "auto"
    """Source of the NVIDIA driver packages. auto: the vendor, or the distribution if only its modules load under Secure Boot."""
    cuda_compat: bool = False
    """Whether the service may use NVIDIA's forward compatibility libraries if the driver of a data-centre GPU is too old."""
    driver_repository: Address | None = None
    """Mirror of the vendor's driver repository, with the same folders. Default: the vendor's repository."""
    driver_key: File | None = None
    """File on the controller with the public key of a mirror that signs its packages. Default: the vendor's key."""
    reboot: bool = False
    """Whether a host may be restarted if its driver requires it."""
    cuda_toolkit: ToolkitVersion | None = None
    """CUDA toolkit (nvcc) to install, for builds on the host."""
    container_toolkit: bool = False
    """Whether to install the NVIDIA container toolkit, or to upgrade one below the vendor's fixed version."""
    flash_attn: FlashAttnPolicy = "auto"
    """Flash attention kernels: those in vLLM's wheel (bundled), the flash-attn package (package, ==X), both, or none. auto: those in vLLM's wheel, and the package where a wheel fits: flash-attn, else flash-attn-4 on GPUs of compute capability 9.x to 11.x with CUDA 13."""
    builder: Annotated[Word, Allowed("controller, or the name of a host")] | None = None
    """Machine that builds the flash-attn package from source if no published wheel fits. Default: none, nothing is built."""
    flash_attn_wheels: Literal["official", "community"] = "official"
    """Publishers of flash-attn wheels to accept: its authors only, or also others."""
    torch: TorchPolicy = "managed"
    """Whether Firstlight installs torch or uses the host's; or the version to install."""
    python: Annotated[Prefix, Allowed("an absolute path without blanks")] | None = None
    """The only interpreter of the host to use; may be in a virtual environment. Default: any on PATH or in the usual folders."""
    attention: Backend = "auto"
    """Attention back end: flash attention if possible (auto), flash attention or an error (flash), or a back end by name."""

    gpus: Annotated[
        tuple[GpuIndex | GpuSliceName, ...] | Literal["all"],
        Allowed('all, a list of indexes such as [0, 1], or one slice such as ["0:1"]'),
    ] = "all"
    """GPUs to use, by index in PCI order, or one slice: `"0:1"` is slice 1 of GPU 0. all: all GPUs of one kind, the kind with the most memory in total on the host."""
    mig: Annotated[
        dict[GpuIndex, tuple[SliceProfile, ...]],
        Allowed("a mapping of GPU indexes to lists of profiles, such as {0: [3g.20gb, 3g.20gb]}"),
    ] = Field(default_factory=dict)
    """Slices (MIG) of NVIDIA GPUs, by index in PCI order. They are made again at each boot. An empty list removes those of a GPU and switches MIG off. GPUs that are not named stay as they are."""
    expected_gpus: Count | None = None
    """GPUs that the host has, whether in use or not. With fewer, its checks fail. Default: as many as in its last green run, or as a server of its product or its board with NVSwitches holds."""
    tensor_parallel: Count | None = None
    """GPUs that share each layer. Default: as many of the GPUs in use as the model can be split over, after `firstlight_data_parallel` and `firstlight_pipeline_parallel`."""
    pipeline_parallel: Count | None = None
    """Groups of GPUs that share the layers in sequence. Default: one for each host that the model is spread over, 1 on CPUs."""
    data_parallel: Count = 1
    """Copies of the model on a host."""
    span: Annotated[Whole, Field(ge=1, le=64), Allowed("a whole number from 1 to 64")] = 1
    """Number of hosts that serve one copy of the model together, taken from an inventory group in its order. The first of them answers requests."""
    span_address: Annotated[Word, Allowed("an IP address")] | None = None
    """IP address at which the hosts that serve the same model together reach this host. Default: the host's address in the inventory."""
    span_port: Annotated[Whole, Field(ge=1024, le=65534), Allowed("a whole number from 1024 to 65534")] = 29501
    """Port of the first of several hosts that serve one model together: vLLM's processes connect to it. The hosts watch each other through the next port."""
    executor: Literal["mp", "ray"] = "mp"
    """What starts vLLM's processes if several hosts serve one model together: vLLM itself (mp), or Ray, which is then installed too."""
    max_model_len: Annotated[Whole, Field(ge=1), Allowed("a whole number of tokens from 1")] | None = None
    """Maximum context length in tokens. Default: the model's own, or less if that does not fit."""
    memory_share: Annotated[Share, Field(gt=0, le=1), Allowed("a number above 0, at most 1")] | None = None
    """Share of each device's memory that vLLM may use. Default: vLLM's default."""
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = "auto"
    """Data type of the loaded weights."""
    env: Annotated[dict[EnvironmentName, Text], Allowed("a mapping of names to text")] = Field(default_factory=dict)
    """Environment variables of the service. No secrets: the run's records contain them."""
    otlp_traces_endpoint: TracesEndpoint | None = None
    """OpenTelemetry collector to which vLLM sends traces of requests, by gRPC, or by HTTP with `OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: http/protobuf` in `firstlight_env`. Default: no traces."""
    vllm_args: Annotated[tuple[Text, ...], Allowed("a list of arguments")] = ()
    """Additional arguments of `vllm serve`, passed on unchanged."""

    bind: BindAddress = "127.0.0.1"
    """Address that the server listens on. An address that other machines can reach also needs `firstlight_expose: true`."""
    port: Port = 8000
    """Port that the server listens on."""
    expose: bool = False
    """Must be true if `firstlight_bind` is not a loopback address."""
    api_key: bool = True
    """Whether the service generates and requires an API key."""
    runtime: Literal["venv", "podman"] = "venv"
    """What the service runs in: on the host itself (venv), or in a container of podman with the same environment (podman)."""
    image: File | None = None
    """File on the controller with the operating system of the container, as `podman save --format oci-archive` writes it."""
    serve: bool = True
    """Whether to start the service. false: install and verify only."""
    start_caches: Annotated[Literal["share", "off"], BeforeValidator(lambda it: "off" if it is False else it)] = "share"
    """Kernels that vLLM compiles at its first start. share: one of several hosts that compile the same code starts first, and the others receive its kernels; off: each host compiles its own."""
    on_failure: Literal["rollback", "leave"] = "rollback"
    """What happens after a failed start. rollback: the host returns to its previous release, if there is one; leave: it stays as it is."""

    audit: bool = False
    """Whether a run sends the names and versions of all packages of this host to the service for vulnerabilities of `uv audit`, and notes what it knows."""

    watchdog: bool = True
    """Whether the watchdog records and restarts an engine that hangs, where systemd runs the service for root."""
    watchdog_restarts: Annotated[Whole, Field(ge=0, le=60), Allowed("a whole number from 0 to 60")] = 3
    """Number of restarts of a hung engine within an hour; if it hangs again, the service is left down. 0: it is never restarted."""
    health_port: Port = 8009
    """Port of the health agent of a host behind a gateway. The agent listens at the address of the server."""
    firewall: Literal["tell", "set"] = "tell"
    """Firewall rules that admit only gateways, monitoring hosts and the other hosts of the same model. tell: Firstlight writes them to a file; set: it sets the rules."""
    firewall_accept: Annotated[
        tuple[Word, ...], Allowed("a list of IP addresses and networks such as 10.0.0.0/24")
    ] = ()
    """Other addresses and networks that the rules of `firstlight_firewall` admit."""
    gateway_bind: BindAddress = "0.0.0.0"  # noqa: S104 - clients are other machines
    """Address that the gateway listens on. `0.0.0.0` is for IPv4 alone, `::` for IPv4 and IPv6."""
    gateway_address: (
        Annotated[str, Allowed("an IP address with the length of its network's prefix, such as 10.0.0.9/24")] | None
    ) = None
    """Address that several gateways share with keepalived. Clients use it; when a gateway is lost, it moves to another one. Default: none."""
    gateway_router_id: Annotated[Whole, Field(ge=1, le=255), Allowed("a whole number from 1 to 255")] | None = None
    """VRRP router id of the shared address, which must be unique in its network. Default: the last byte of the address."""
    gateway_port: Port = 8443
    """Port that the gateway listens on."""
    gateway_tls: bool = True
    """Whether the gateway speaks TLS. false needs a loopback address or `firstlight_expose`."""
    gateway_certificate: File | None = None
    """File on the controller with the gateway's certificate, its chain and its private key, in PEM. Default: a self-signed one."""
    gateway_clients: Annotated[
        tuple[ShortName, ...], Field(min_length=1), Allowed("a list of names of letters, digits, `.`, `_` and `-`")
    ] = ("default",)
    """Names of the gateway's clients. Each gets an API key, which is revoked when its name is removed."""
    gateway_body_mib: Annotated[Whole, Field(ge=1, le=64), Allowed("a whole number from 1 to 64")] = 4
    """Largest request that the gateway accepts, in MiB."""
    gateway_host_requests: Annotated[Whole, Field(ge=1, le=8192), Allowed("a whole number from 1 to 8192")] = 256
    """Requests that the gateway sends to one host at a time. As many more wait, and further ones are answered with 503."""
    gateway_balance: Literal["requests", "prefixes"] = "requests"
    """How the gateway chooses the host of a request: the one with the fewest requests (requests), or the one that has the prompt's prefix in its cache (prefixes)."""
    gateway_requests_per_minute: Annotated[Whole, Field(ge=1), Allowed("a whole number of at least 1")] | None = None
    """Requests per minute that the gateway accepts from one client. Default: no limit."""
    gateway_tokens_per_minute: Tokens | None = None
    """Tokens per minute of one client's prompts and answers. When they are used up, the gateway answers 429. Default: no limit."""
    gateway_tokens_per_day: Tokens | None = None
    """The same per day (UTC). Default: no limit."""
    gateway_drain_seconds: Annotated[Whole, Field(ge=0), Allowed("a whole number from 0")] = 600
    """Seconds that running requests have to finish before the service of their host restarts. The default is the timeout of OpenAI's clients."""
    gateway_restart_at_once: Count = 1
    """Number of hosts of one model whose services a run restarts at once. If a model has several hosts, at least one always takes requests."""

    gateway_metrics_port: Port = 8404
    """Port at which a gateway offers HAProxy's metrics to hosts of group `monitoring`."""

    metrics_bind: BindAddress | None = None
    """Address at which a host offers metrics to hosts of group `monitoring`. Default: the host's address in the inventory; 127.0.0.1 if the host monitors itself alone."""
    metrics_port: Port = 9100
    """Port of the node exporter on hosts that are monitored."""
    monitoring_bind: BindAddress = "127.0.0.1"
    """Address that Prometheus listens on. It requires no key."""
    monitoring_port: Port = 9090
    """Port of Prometheus."""
    monitoring_probe_port: Port = 9115
    """Port on 127.0.0.1 of the blackbox exporter, which tests the gateways for Prometheus."""
    alertmanager_port: Port = 9093
    """Port of Alertmanager, at `firstlight_monitoring_bind`."""
    alertmanager_config: File | None = None
    """File on the controller with Alertmanager's configuration: who is notified of alerts. Default: nobody."""
    monitoring_days: Annotated[Whole, Field(ge=1), Allowed("a whole number of at least 1")] = 15
    """Days for which Prometheus keeps metrics."""

    @property
    def span_ports(self) -> tuple[int, int]:
        """Return the ports of the first host of a span at which its processes meet, and at which its hosts watch one another."""
        return self.span_port, self.span_port + 1

    @property
    def ray_ports(self) -> tuple[int, int]:
        """Return the first and the last port at which Ray listens on each host of a span, where it starts vLLM's processes."""
        return self.span_port + 2, self.span_port + 1 + RAY_PORTS

    @property
    def serves_model(self) -> bool:
        """Whether a model is to be served."""
        return self.serve and self.vllm != "none"

    def source_of(self, kind: SourceKind) -> Source:
        """Return where a kind of file comes from, as it is set."""
        return self.source.get(kind, "auto") if isinstance(self.source, dict) else self.source

    def model_key(self, source: Source) -> tuple[str | None, ...]:
        """Return what the files of the model depend on, if they come from a source."""
        adapters = (f"{name}={place}" for name, place in sorted(self.lora.items()))
        return (self.model, self.model_on_host, source, self.chat_template, *adapters, *filter(None, [self.draft]))

    @property
    def draft(self) -> str | None:
        """Return the source of the draft model; None without one."""
        model = self.speculative.get("model")
        return model if isinstance(model, str) else None

    @property
    def model_sources(self) -> tuple[str, ...]:
        """Return the sources of the model, of its adapters, and of its draft model."""
        return (self.model, *self.lora.values(), *filter(None, [self.draft]))

    @property
    def draft_folder(self) -> str:
        """Return the folder of the draft model in that of the model."""
        return f"{DRAFTS}/{PurePath((self.draft or '').partition('@')[0]).name}"

    def pipeline(self, *, on_cpu: bool) -> int:
        """Return into how many parts the layers are split, in sequence.

        By default a host of a span has whole layers, and its GPUs share each of them. CPU hosts share each layer: vLLM 0.32.0
        prepares the later parts of a sequence on a CPU only where it compiles (warming_up_model in v1/worker/cpu_model_runner.py).

        Args:
            on_cpu: Whether the hosts compute on their CPUs.
        """
        return self.pipeline_parallel or (1 if on_cpu else self.span)


def allowed(name: str) -> str:
    """Return the values of a setting, as error messages and the reference page call them."""
    field = Settings.model_fields[name]
    return next(_allowed(field.annotation, field.metadata))


def _allowed(kind: Any, metadata: Sequence[Any] = ()) -> Iterator[str]:
    """Yield the texts of a type, the outermost first."""
    yield from (item.text for item in reversed(metadata) if isinstance(item, Allowed))
    inner = get_args(kind)
    if kind is bool:
        yield "true or false"
    elif get_origin(kind) is Literal:
        yield f"{', '.join(inner[:-1])} or {inner[-1]}"
    elif get_origin(kind) is Annotated:
        yield from _allowed(inner[0], inner[1:])
    else:
        for part in inner:
            yield from _allowed(part)


def typed(name: str, value: object) -> str:
    """Return what is typed to give a setting a value, as messages spell it."""
    option = OPTIONS.get(name)
    return f"{option} {value}" if option else f"--set {shlex.quote(f'{name}={value}')}"


def option_of(word: str) -> str:
    """Return the option that an element of `vllm_args` sets, in vLLM's spelling: `--max_model_len=512` is `--max-model-len`."""
    name = word.partition("=")[0]
    return name.replace("_", "-") if name.startswith("--") else name


def model_name(model: str) -> str:
    """Return the last name of a folder, or of a hub id without its revision."""
    return PurePath(model if model.startswith("/") else model.partition("@")[0]).name


def value_of(words: Sequence[str], option: str) -> str | None:
    """Return the last value of an option in `vllm_args`, as `--option value` or `--option=value`; None where it has none."""
    found = None
    for place, word in enumerate(words):
        if option_of(word) == option:
            _, equals, value = word.partition("=")
            found = value if equals else next(iter(words[place + 1 : place + 2]), None)
    return found


def speculates(words: Sequence[str]) -> bool:
    """Return whether `vllm_args` switch speculative decoding on, also by an abbreviation that argparse accepts."""
    names = [name for word in words if (name := option_of(word).partition(".")[0]).startswith("-") and name.strip("-")]
    return any(option.startswith(name) for option in SPECULATING for name in names)
