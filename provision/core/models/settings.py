"""One host of the inventory: its connection and its settings.

Every inventory variable is `firstlight_` plus a field's name of `Settings`; docs/reference/inventory.md lists them.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr

from provision.core.models.base import Record


def _number(value: Any) -> Any:
    """Reject booleans, which Python accepts as numbers.

    Raises:
        ValueError: The value is a boolean.
    """
    if isinstance(value, bool):
        raise ValueError("true and false are no numbers")  # noqa: TRY004 - what pydantic takes for a wrong value
    return value


Backend = Annotated[str, Field(pattern=r"^(auto|flash|[A-Z][A-Z0-9_]*)$")]
VllmPolicy = Annotated[str, Field(pattern=r"^(latest|none|(==|>=)[0-9]+(\.[0-9]+)*(\.?(a|b|rc|post|dev)[0-9]+)*)$")]
TorchPolicy = Annotated[str, Field(pattern=r"^(managed|existing|==[0-9]+\.[0-9]+\.[0-9]+)$")]
FlashAttnPolicy = Annotated[
    str, Field(pattern=r"^(auto|bundled|package|both|none|==[0-9]+(\.[0-9]+)*(\.?(a|b|rc|post|dev)[0-9]+)*)$")
]
DriverPolicy = Annotated[
    str,
    Field(
        coerce_numbers_to_str=True,
        pattern=r"^(keep|install|upgrade|==[0-9]{3}(\.[0-9]+){1,2}|(==)?[0-9]{3}(\.\*)?)$",
    ),
]
Prefix = Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._+@-]+)+/?$")]
Word = Annotated[str, Field(pattern=r"^\S+$")]
Address = Annotated[str, Field(pattern=r"^(https?://[^\s/]|file:///)\S*$")]
ToolkitVersion = Annotated[str, Field(coerce_numbers_to_str=True, pattern=r"^[0-9]+\.[0-9]+$")]
EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
ClientName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Text = Annotated[str, Field(coerce_numbers_to_str=True, pattern=r"^[^\n\x00]*$")]
GpuIndex = Annotated[int, BeforeValidator(_number), Field(ge=0)]
Whole = Annotated[int, BeforeValidator(_number)]
Share = Annotated[float, BeforeValidator(_number)]


class Connection(Record):
    """How one host is reached, resolved once from the inventory and the user's ssh configuration.

    `kind` is `local` for this machine; then only the `become` fields and `python_interpreter` mean anything.
    """

    kind: Literal["local", "ssh"]
    address: str | None = None
    port: int = 22
    user: str | None = None
    password: SecretStr | None = Field(default=None, exclude=True, repr=False)
    """Of the login user; in memory only."""
    identity_files: tuple[str, ...] = ()
    certificate_files: tuple[str, ...] = ()
    identities_only: bool = False
    identity_agent: str | None = None
    """Socket of the ssh agent; None: SSH_AUTH_SOCK; `none`: no agent."""
    known_hosts_files: tuple[str, ...] = ()
    """In OpenSSH's order; new keys are added to the first."""
    host_key_alias: str | None = None
    accept_new_host_keys: bool = False
    """Whether unknown hosts are trusted once and stored; a changed key is always refused."""
    hash_known_hosts: bool = False
    address_family: Literal["any", "inet", "inet6"] = "any"
    bind_address: str | None = None
    algorithms: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Algorithms that the user's ssh configuration changes: `ciphers`, `macs`, `kexalgorithms`, `hostkeyalgorithms`."""
    proxy_jump: tuple[Connection, ...] = ()
    """Jump hosts in connection order; `proxy_command` connects through all of them."""
    proxy_command: str | None = None
    connect_timeout_s: float = 10.0
    openssh_options: tuple[str, ...] = ()
    """The connection as OpenSSH arguments, for Ansible and uploads; the user's configuration is not read again."""
    become: bool = False
    become_method: Literal["sudo"] = "sudo"
    become_password_file: str | None = None
    become_password: SecretStr | None = Field(default=None, exclude=True, repr=False)
    """For sudo; in memory only."""
    python_interpreter: str | None = None


def _setting(default: Any, description: str, *, allowed: str, **constraints: Any) -> Any:
    """Return a field with its texts for error messages and the reference page."""
    return Field(default=default, description=description, json_schema_extra={"allowed": allowed}, **constraints)


def _port(default: int, description: str) -> Any:
    return _setting(default, description, allowed="a whole number from 1 to 65535", ge=1, le=65535)


class Settings(Record):
    """Desired settings of a host, with defaults."""

    prefix: Prefix | None = _setting(
        None,
        "Installation folder. Default: /opt/firstlight with root, ~/.local/share/firstlight without.",
        allowed="an absolute path without blanks, not the root folder",
    )
    model: Word = _setting(
        "builtin",
        "Model to serve: the built-in model, a folder on the controller (absolute, or relative to the inventory), or a hub id.",
        allowed="builtin, a folder, or a hub id such as org/name or org/name@revision",
    )
    model_on_host: Prefix | None = _setting(
        None,
        "Folder on the host that has the model's files, such as a share of all hosts: they are checked and linked there, and not sent.",
        allowed="an absolute path without blanks, not the root folder",
    )
    source: Literal["auto", "controller", "peers"] = _setting(
        "auto",
        "Source of wheels, interpreter and model: the controller, or hosts of the run that have them (peers). auto: peers from four hosts on.",
        allowed="auto, controller or peers",
    )
    served_model_name: Word | None = _setting(
        None, "Model name in the API. Default: the model's own.", allowed="text without blanks"
    )
    tool_parser: Word = _setting(
        "auto",
        "vLLM's parser of tool calls. auto: the one of the model's family, if it is known; none: no tool calls.",
        allowed="auto, none, or the name of a parser of the release",
    )
    reasoning_parser: Word = _setting(
        "auto",
        "vLLM's parser of a model's reasoning. auto: the one of the model's family, if it is known; none: reasoning stays in the answer.",
        allowed="auto, none, or the name of a parser of the release",
    )
    chat_template: str | None = _setting(
        None,
        "File on the controller with a chat template, in Jinja, that replaces the model's own.",
        allowed="path of a file on the controller",
    )
    trust_remote_code: bool = _setting(
        False,  # the setting's default
        "Whether vLLM may run Python code of the model's repository. A model that needs it is refused otherwise.",
        allowed="true or false",
    )
    hf_token_file: str | None = _setting(
        None,
        "File on the controller with the hub token; never the token itself.",
        allowed="path of a file on the controller",
    )

    vllm: VllmPolicy = _setting("latest", "vLLM release.", allowed="latest, none, ==X or >=X")
    driver: DriverPolicy = _setting(
        "keep",
        "Whether a working NVIDIA driver may be replaced, or its required version or branch. Cards without a driver get one.",
        allowed="keep, install, upgrade, ==X such as ==580.95.05, or a branch such as 580 or ==580.*",
    )
    driver_source: Literal["auto", "vendor", "distribution"] = _setting(
        "auto",
        "Source of the NVIDIA driver packages. auto: the vendor, or the distribution if only its modules load under Secure Boot.",
        allowed="auto, vendor or distribution",
    )
    cuda_compat: bool = _setting(
        False,  # the setting's default
        "Whether the service may use NVIDIA's forward compatibility libraries if the driver of a data-centre card is too old.",
        allowed="true or false",
    )
    driver_repository: Address | None = _setting(
        None,
        "Mirror of the vendor's driver repository, with the same folders. Default: the vendor's repository.",
        allowed="an address that begins with https://, http:// or file:///",
    )
    driver_key: str | None = _setting(
        None,
        "File on the controller with the public key of a mirror that signs its packages. Default: the vendor's key.",
        allowed="path of a file on the controller",
    )
    reboot: bool = _setting(
        False,  # the setting's default
        "Whether a host may be restarted if its driver requires it.",
        allowed="true or false",
    )
    cuda_toolkit: ToolkitVersion | None = _setting(
        None, "CUDA toolkit (nvcc) to install, for builds on the host.", allowed="a version such as 13.0"
    )
    container_toolkit: bool = _setting(
        False,  # the setting's default
        "Whether to install the NVIDIA container toolkit.",
        allowed="true or false",
    )
    flash_attn: FlashAttnPolicy = _setting(
        "auto",
        "Flash kernels: those in vLLM's wheel (bundled), the flash-attn package (package, ==X), both, or none.",
        allowed="auto, bundled, package, both, none or ==X",
    )
    builder: Word | None = _setting(
        None,
        "Machine that builds the flash-attn package from source if no published wheel fits. Default: none, nothing is built.",
        allowed="controller, or the name of a host",
    )
    flash_attn_wheels: Literal["official", "community"] = _setting(
        "official",
        "Publishers of flash-attn wheels to accept: its authors only, or also others.",
        allowed="official or community",
    )
    torch: TorchPolicy = _setting(
        "managed",
        "Whether Firstlight installs torch or uses the host's; or the release to install.",
        allowed="managed, existing, or ==X.Y.Z such as ==2.3.0",
    )
    python: Prefix | None = _setting(
        None,
        "The only interpreter of the host to use; may be in a virtual environment. Default: any on PATH or in the usual folders.",
        allowed="an absolute path without blanks",
    )
    attention: Backend = _setting(
        "auto",
        "Attention back end: flash kernels if possible (auto), flash kernels or an error (flash), or a back end by name.",
        allowed="auto, flash, or a back end's name such as FLASH_ATTN, TRITON_ATTN, CPU_ATTN",
    )

    gpus: tuple[GpuIndex, ...] | Literal["all"] = _setting(
        "all",
        "Cards to use, by index in PCI order. all: all cards of the kind with the most total memory.",
        allowed="all, or a list of indexes such as [0, 1]",
    )
    tensor_parallel: Whole | None = _setting(
        None,
        "Cards that share each layer. Default: as many of the cards in use as the model can be split over.",
        allowed="a whole number from 1",
        ge=1,
    )
    pipeline_parallel: Whole | None = _setting(
        None,
        "Groups of cards that share the layers in sequence. Default: one for each host that the model is spread over, 1 on CPUs.",
        allowed="a whole number from 1",
        ge=1,
    )
    data_parallel: Whole = _setting(1, "Copies of the model.", allowed="a whole number from 1", ge=1)
    span: Whole = _setting(
        1,
        "Hosts that one model is spread over: so many of a group, in inventory order; the first one answers requests.",
        allowed="a whole number from 1 to 64",
        ge=1,
        le=64,
    )
    span_address: Word | None = _setting(
        None,
        "IP address at which the other hosts of the span reach this one. Default: that of the inventory.",
        allowed="an IP address",
    )
    span_port: Whole = _setting(
        29501,
        "Port of the first host of a span at which its processes meet; its hosts watch one another at the next one.",
        allowed="a whole number from 1024 to 65534",
        ge=1024,
        le=65534,
    )
    max_model_len: Whole | None = _setting(
        None,
        "Maximum context length in tokens. Default: the model's own, or less if that does not fit.",
        allowed="a whole number of tokens from 1",
        ge=1,
    )
    memory_share: Share | None = _setting(
        None,
        "Share of each device's memory that vLLM may use. Default: vLLM's own.",
        allowed="a number above 0, at most 1",
        gt=0,
        le=1,
    )
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = _setting(
        "auto", "Number format of the loaded weights.", allowed="auto, float16, bfloat16 or float32"
    )
    env: dict[EnvironmentName, Text] = _setting(
        {},
        "Environment variables of the service. No secrets: the run's records contain them.",
        allowed="a mapping of names to text",
    )
    vllm_args: tuple[Text, ...] = _setting(
        (), "Additional arguments of `vllm serve`, passed on unchanged.", allowed="a list of arguments"
    )

    bind: Word = _setting("127.0.0.1", "Address that the server listens on.", allowed="an IP address or localhost")
    port: Whole = _port(8000, "Port that the server listens on.")
    expose: bool = _setting(
        False,  # the setting's default
        "Must be true if `firstlight_bind` is not a loopback address.",
        allowed="true or false",
    )
    api_key: bool = _setting(True, "Whether the service generates and requires an API key.", allowed="true or false")
    serve: bool = _setting(
        True, "Whether to start the service. false: install and verify only.", allowed="true or false"
    )
    on_failure: Literal["rollback", "leave"] = _setting(
        "rollback",
        "After a start that fails: back to the release that served before, if there is one (rollback), or nothing (leave).",
        allowed="rollback or leave",
    )

    health_port: Whole = _port(
        8009, "Port of the health agent, which a host behind a gateway has at the address of its server."
    )
    firewall: Literal["tell", "set"] = _setting(
        "tell",
        "Firewall of a host behind a gateway, which only gateways and monitoring hosts are to reach: what to type (tell), or rules of its own (set).",
        allowed="tell or set",
    )
    firewall_accept: tuple[Word, ...] = _setting(
        (),
        "Other addresses and networks that reach it through rules of `firstlight_firewall`.",
        allowed="a list of IP addresses and networks such as 10.0.0.0/24",
    )
    gateway_bind: Word = _setting(
        "0.0.0.0",  # noqa: S104 - clients are other machines
        "Address that the gateway listens on.",
        allowed="an IP address or localhost",
    )
    gateway_address: str | None = _setting(
        None,
        "Address that the gateways share by keepalived: clients use it, and it moves when a gateway is lost. Default: none.",
        allowed="an IP address with the length of its network's prefix, such as 10.0.0.9/24",
    )
    gateway_router_id: Whole | None = _setting(
        None,
        "Number of the shared address in its network, which no other VRRP router there may have. Default: its last byte.",
        allowed="a whole number from 1 to 255",
        ge=1,
        le=255,
    )
    gateway_port: Whole = _port(8443, "Port that the gateway listens on.")
    gateway_tls: bool = _setting(
        True,
        "Whether the gateway speaks TLS. false needs a loopback address or `firstlight_expose`.",
        allowed="true or false",
    )
    gateway_certificate: str | None = _setting(
        None,
        "File on the controller with the gateway's certificate, its chain and its private key, in PEM. Default: a self-signed one.",
        allowed="path of a file on the controller",
    )
    gateway_clients: tuple[ClientName, ...] = _setting(
        ("default",),
        "Names of the gateway's clients. Each gets an API key; that of a name that is taken out is void.",
        allowed="a list of names of letters, digits, `.`, `_` and `-`",
        min_length=1,
    )
    gateway_body_mib: Whole = _setting(
        4, "Size in MiB up to which the gateway accepts a request.", allowed="a whole number from 1 to 64", ge=1, le=64
    )
    gateway_host_requests: Whole = _setting(
        256,
        "Requests that the gateway gives one host at a time; as many wait, and others are answered with 503.",
        allowed="a whole number from 1 to 8192",
        ge=1,
        le=8192,
    )
    gateway_balance: Literal["requests", "prefixes"] = _setting(
        "requests",
        "What decides which host of a model gets a request: the fewest requests, or the prefix of the prompt, whose keys a host has in its cache.",
        allowed="requests or prefixes",
    )
    gateway_requests_per_minute: Whole | None = _setting(
        None,
        "Requests a minute of one client that the gateway accepts. Default: no limit.",
        allowed="a whole number of at least 1",
        ge=1,
    )
    gateway_drain_seconds: Whole = _setting(
        600,
        "Seconds that requests get to finish before their host is restarted. Default: after as many, OpenAI's clients give up.",
        allowed="a whole number from 0",
        ge=0,
    )
    gateway_restart_at_once: Whole = _setting(
        1,
        "Hosts of one model that a run restarts together. A host that serves the model stays in traffic in any case, if there is one.",
        allowed="a whole number from 1",
        ge=1,
    )

    gateway_metrics_port: Whole = _port(
        8404, "Port at which a gateway offers HAProxy's figures to hosts of group `monitoring`."
    )

    metrics_bind: Word | None = _setting(
        None,
        "Address at which a host offers metrics to hosts of group `monitoring`. Default: that of the inventory, 127.0.0.1 on the only such host.",
        allowed="an IP address or localhost",
    )
    metrics_port: Whole = _port(9100, "Port of the node exporter on hosts that are monitored.")
    monitoring_bind: Word = _setting(
        "127.0.0.1",
        "Address that Prometheus listens on, which asks nobody for a key.",
        allowed="an IP address or localhost",
    )
    monitoring_port: Whole = _port(9090, "Port of Prometheus.")
    monitoring_probe_port: Whole = _port(
        9115, "Port of the blackbox exporter, which asks gateways on the monitoring host's behalf; on 127.0.0.1."
    )
    alertmanager_port: Whole = _port(9093, "Port of Alertmanager, at `firstlight_monitoring_bind`.")
    alertmanager_config: str | None = _setting(
        None,
        "File on the controller with Alertmanager's configuration: who is notified of alerts. Default: nobody.",
        allowed="path of a file on the controller",
    )
    monitoring_days: Whole = _setting(
        15, "Days for which Prometheus keeps metrics.", allowed="a whole number of at least 1", ge=1
    )

    def pipeline(self, *, on_cpu: bool) -> int:
        """Return into how many parts the layers are split, in sequence.

        By default a host of a span has whole layers, and its cards share each of them. CPU hosts share each layer: vLLM 0.32.0
        prepares the later parts of a sequence on a CPU only where it compiles (warming_up_model in v1/worker/cpu_model_runner.py).

        Args:
            on_cpu: Whether the hosts compute on their CPUs.
        """
        return self.pipeline_parallel or (1 if on_cpu else self.span)


def option_of(word: str) -> str:
    """Return the option that an element of `vllm_args` sets, in vLLM's spelling: `--max_model_len=512` is `--max-model-len`."""
    name = word.partition("=")[0]
    return name.replace("_", "-") if name.startswith("--") else name


GATEWAY = "gateway"
"""Group of the hosts in front of all that serve."""
MONITORING = "monitoring"
"""Group of the hosts that read the metrics of all others."""


class Span(Record):
    """The hosts that one model is spread over."""

    members: tuple[str, ...]
    """Their names; the first one, the head, answers requests."""
    addresses: tuple[str, ...]
    """Their IP addresses, in the same order."""

    @property
    def head(self) -> str:
        """Return the host that answers requests."""
        return self.members[0]


class Host(Record):
    """A host of the inventory."""

    name: str
    groups: tuple[str, ...] = ()
    connection: Connection
    settings: Settings
    span: Span | None = None
    """The hosts that its model is spread over; None where it serves alone."""

    @property
    def is_gateway(self) -> bool:
        """Whether clients reach other hosts through it."""
        return GATEWAY in self.groups

    @property
    def is_provisioned(self) -> bool:
        """Whether an environment is installed there: not on a host that is a gateway, or monitors, and nothing else."""
        return not self.groups or not set(self.groups) <= {GATEWAY, MONITORING}

    @property
    def is_monitoring(self) -> bool:
        """Whether it reads the metrics of all hosts."""
        return MONITORING in self.groups

    @property
    def is_serving(self) -> bool:
        """Whether a model is served there, as its settings say."""
        return self.is_provisioned and self.settings.serve

    @property
    def head(self) -> str:
        """Return the host that answers requests to its model: itself, or the head of its span."""
        return self.span.head if self.span else self.name


class Inventory(Record):
    """All hosts of a run, in inventory order, after `--limit`."""

    source: str
    hosts: tuple[Host, ...]


def default_prefix(*, uid: int, home: str) -> PurePosixPath:
    """Return the default prefix of a user's installation."""
    return PurePosixPath("/opt/firstlight") if uid == 0 else PurePosixPath(home) / ".local/share/firstlight"
