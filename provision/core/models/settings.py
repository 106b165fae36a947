"""The settings of one host.

Every inventory variable is `firstlight_` plus a field's name of `Settings`; docs/reference/inventory.md lists them.
"""

from __future__ import annotations

import shlex
from typing import Literal

from provision.core.models.base import Record
from provision.core.models.setting_types import (
    Address,
    Backend,
    ClientName,
    DriverPolicy,
    EnvironmentName,
    FlashAttnPolicy,
    GpuIndex,
    Prefix,
    Share,
    Source,
    SourceKind,
    Text,
    ToolkitVersion,
    TorchPolicy,
    VllmPolicy,
    Whole,
    Word,
    port_setting,
    setting,
)

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


class Settings(Record):
    """Desired settings of a host, with defaults."""

    prefix: Prefix | None = setting(
        None,
        "Installation folder. Default: /opt/firstlight with root, ~/.local/share/firstlight without.",
        allowed="an absolute path without blanks, not the root folder",
    )
    model: Word = setting(
        "builtin",
        "Model to serve: the built-in model, a folder on the controller (absolute, or relative to the inventory), or a hub id. The default replaces another model that a host serves now.",
        allowed="builtin, a folder, or a hub id such as org/name or org/name@revision",
    )
    model_on_host: Prefix | None = setting(
        None,
        "Folder on the host that has the model's files, such as a share of all hosts. They are compared with `firstlight_model` and linked there, and not sent.",
        allowed="an absolute path without blanks, not the root folder",
    )
    source: Source | dict[SourceKind, Source] = setting(
        "auto",
        "Source of wheels, interpreter and model, or of each kind: the controller, hosts of the run that have them (peers), a package index or model hub of the host (host), or a folder on the host (path). auto: peers where that is faster, else the controller.",
        allowed="auto, controller, peers, host or path; or a mapping of wheels, interpreter and model to these, such as {wheels: host, model: path}",
    )
    source_index: tuple[Address, ...] = setting(
        (),
        "Package index, or several, of a host with source `host`. Default: those of the host's uv or pip settings.",
        allowed="a list of addresses that begin with https://, http:// or file:///",
    )
    source_hub: Address | None = setting(
        None,
        "Model hub of a host with source `host`. Default: the host's HF_ENDPOINT, else the controller's.",
        allowed="an address that begins with https://, http:// or file:///",
    )
    source_folder: Prefix | None = setting(
        None,
        "Folder on the host that source `path` copies from: files by name, or a copy of the controller's cache.",
        allowed="an absolute path without blanks, not the root folder",
    )
    served_model_name: Word | None = setting(
        None, "Model name in the API. Default: the model's own.", allowed="text without blanks"
    )
    tool_parser: Word = setting(
        "auto",
        "vLLM's parser of tool calls. auto: the one of the model's family, if it is known; none: no tool calls.",
        allowed="auto, none, or the name of a parser of the release",
    )
    reasoning_parser: Word = setting(
        "auto",
        "vLLM's parser of a model's reasoning. auto: the one of the model's family, if it is known; none: reasoning stays in the answer.",
        allowed="auto, none, or the name of a parser of the release",
    )
    chat_template: str | None = setting(
        None,
        "File on the controller with a chat template, in Jinja, that replaces the model's own.",
        allowed="path of a file on the controller",
    )
    trust_remote_code: bool = setting(
        False,  # the setting's default
        "Whether vLLM may run Python code of the model's repository. A model that needs it is refused otherwise.",
        allowed="true or false",
    )
    hf_token_file: str | None = setting(
        None,
        "File on the controller with the token for the model hub; never the token itself.",
        allowed="path of a file on the controller",
    )

    vllm: VllmPolicy = setting(
        "latest",
        "vLLM release. latest: the newest tested one that fits; newest: the newest one that fits, tested or not.",
        allowed="latest, newest, none, X or ==X such as 0.33.0, or >=X",
    )
    accept_advisories: tuple[Word, ...] = setting(
        (),
        "Security advisories whose risk you take: the plan and the checks of a host no longer warn of them. It does not let `latest` or a range choose an affected release.",
        allowed="a list of ids such as [CVE-2026-22778, NVIDIA-5861]",
    )
    driver: DriverPolicy = setting(
        "keep",
        "NVIDIA driver. keep: a working driver stays, and GPUs without one get one; install: a driver that does not answer is also installed again; upgrade: a driver that is too old for the chosen versions is also replaced; or the required version or branch.",
        allowed="keep, install, upgrade, X or ==X such as 580.95.05, or a branch such as 580 or ==580.*",
    )
    driver_source: Literal["auto", "vendor", "distribution"] = setting(
        "auto",
        "Source of the NVIDIA driver packages. auto: the vendor, or the distribution if only its modules load under Secure Boot.",
        allowed="auto, vendor or distribution",
    )
    cuda_compat: bool = setting(
        False,  # the setting's default
        "Whether the service may use NVIDIA's forward compatibility libraries if the driver of a data-centre GPU is too old.",
        allowed="true or false",
    )
    driver_repository: Address | None = setting(
        None,
        "Mirror of the vendor's driver repository, with the same folders. Default: the vendor's repository.",
        allowed="an address that begins with https://, http:// or file:///",
    )
    driver_key: str | None = setting(
        None,
        "File on the controller with the public key of a mirror that signs its packages. Default: the vendor's key.",
        allowed="path of a file on the controller",
    )
    reboot: bool = setting(
        False,  # the setting's default
        "Whether a host may be restarted if its driver requires it.",
        allowed="true or false",
    )
    cuda_toolkit: ToolkitVersion | None = setting(
        None, "CUDA toolkit (nvcc) to install, for builds on the host.", allowed="a version such as 13.0"
    )
    container_toolkit: bool = setting(
        False,  # the setting's default
        "Whether to install the NVIDIA container toolkit, or to upgrade one below the vendor's fixed release.",
        allowed="true or false",
    )
    flash_attn: FlashAttnPolicy = setting(
        "auto",
        "Flash attention kernels: those in vLLM's wheel (bundled), the flash-attn package (package, ==X), both, or none. auto: those in vLLM's wheel, and the package where a wheel fits.",
        allowed="auto, bundled, package, both, none, or X or ==X such as 2.8.3",
    )
    builder: Word | None = setting(
        None,
        "Machine that builds the flash-attn package from source if no published wheel fits. Default: none, nothing is built.",
        allowed="controller, or the name of a host",
    )
    flash_attn_wheels: Literal["official", "community"] = setting(
        "official",
        "Publishers of flash-attn wheels to accept: its authors only, or also others.",
        allowed="official or community",
    )
    torch: TorchPolicy = setting(
        "managed",
        "Whether Firstlight installs torch or uses the host's; or the release to install.",
        allowed="managed, existing, or X.Y.Z or ==X.Y.Z such as 2.3.0",
    )
    python: Prefix | None = setting(
        None,
        "The only interpreter of the host to use; may be in a virtual environment. Default: any on PATH or in the usual folders.",
        allowed="an absolute path without blanks",
    )
    attention: Backend = setting(
        "auto",
        "Attention back end: flash attention if possible (auto), flash attention or an error (flash), or a back end by name.",
        allowed="auto, flash, or a back end's name such as FLASH_ATTN, TRITON_ATTN, CPU_ATTN",
    )

    gpus: tuple[GpuIndex, ...] | Literal["all"] = setting(
        "all",
        "GPUs to use, by index in PCI order. all: all GPUs of one model, the one with the largest sum of memory on the host.",
        allowed="all, or a list of indexes such as [0, 1]",
    )
    tensor_parallel: Whole | None = setting(
        None,
        "GPUs that share each layer. Default: as many of the GPUs in use as the model can be split over, after `firstlight_data_parallel` and `firstlight_pipeline_parallel`.",
        allowed="a whole number from 1",
        ge=1,
    )
    pipeline_parallel: Whole | None = setting(
        None,
        "Groups of GPUs that share the layers in sequence. Default: one for each host that the model is spread over, 1 on CPUs.",
        allowed="a whole number from 1",
        ge=1,
    )
    data_parallel: Whole = setting(1, "Copies of the model on a host.", allowed="a whole number from 1", ge=1)
    span: Whole = setting(
        1,
        "Number of hosts that serve one copy of the model together, taken from an inventory group in its order. The first of them answers requests.",
        allowed="a whole number from 1 to 64",
        ge=1,
        le=64,
    )
    span_address: Word | None = setting(
        None,
        "IP address at which the hosts that serve the same model together reach this host. Default: that of the inventory.",
        allowed="an IP address",
    )
    span_port: Whole = setting(
        29501,
        "Port of the first of several hosts that serve one model together: vLLM's processes connect to it. The hosts watch each other through the next port.",
        allowed="a whole number from 1024 to 65534",
        ge=1024,
        le=65534,
    )
    executor: Literal["mp", "ray"] = setting(
        "mp",
        "What starts vLLM's processes if several hosts serve one model together: vLLM itself (mp), or Ray, which is then installed too.",
        allowed="mp or ray",
    )
    max_model_len: Whole | None = setting(
        None,
        "Maximum context length in tokens. Default: the model's own, or less if that does not fit.",
        allowed="a whole number of tokens from 1",
        ge=1,
    )
    memory_share: Share | None = setting(
        None,
        "Share of each device's memory that vLLM may use. Default: vLLM's own.",
        allowed="a number above 0, at most 1",
        gt=0,
        le=1,
    )
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = setting(
        "auto", "Number format of the loaded weights.", allowed="auto, float16, bfloat16 or float32"
    )
    env: dict[EnvironmentName, Text] = setting(
        {},
        "Environment variables of the service. No secrets: the run's records contain them.",
        allowed="a mapping of names to text",
    )
    vllm_args: tuple[Text, ...] = setting(
        (), "Additional arguments of `vllm serve`, passed on unchanged.", allowed="a list of arguments"
    )

    bind: Word = setting(
        "127.0.0.1",
        "Address that the server listens on. An address that other machines can reach also needs `firstlight_expose: true`.",
        allowed="an IP address or localhost",
    )
    port: Whole = port_setting(8000, "Port that the server listens on.")
    expose: bool = setting(
        False,  # the setting's default
        "Must be true if `firstlight_bind` is not a loopback address.",
        allowed="true or false",
    )
    api_key: bool = setting(True, "Whether the service generates and requires an API key.", allowed="true or false")
    serve: bool = setting(
        True, "Whether to start the service. false: install and verify only.", allowed="true or false"
    )
    start_caches: Literal["share", "off"] = setting(
        "share",
        "Kernels that vLLM compiles at its first start. share: one of several hosts that compile the same code starts first, and the others receive its kernels; off: each host compiles its own.",
        allowed="share or off",
    )
    on_failure: Literal["rollback", "leave"] = setting(
        "rollback",
        "What happens after a failed start. rollback: the host returns to its previous release, if there is one; leave: it stays as it is.",
        allowed="rollback or leave",
    )

    health_port: Whole = port_setting(
        8009, "Port of the health agent of a host behind a gateway. The agent listens at the address of the server."
    )
    firewall: Literal["tell", "set"] = setting(
        "tell",
        "Firewall rules that admit only gateways, monitoring hosts and the other hosts of the same model. tell: Firstlight writes the commands to a file; set: it sets the rules.",
        allowed="tell or set",
    )
    firewall_accept: tuple[Word, ...] = setting(
        (),
        "Other addresses and networks that the rules of `firstlight_firewall` admit.",
        allowed="a list of IP addresses and networks such as 10.0.0.0/24",
    )
    gateway_bind: Word = setting(
        "0.0.0.0",  # noqa: S104 - clients are other machines
        "Address that the gateway listens on.",
        allowed="an IP address or localhost",
    )
    gateway_address: str | None = setting(
        None,
        "Address that several gateways share by keepalived. Clients use it, and it moves when a gateway is lost. Default: none.",
        allowed="an IP address with the length of its network's prefix, such as 10.0.0.9/24",
    )
    gateway_router_id: Whole | None = setting(
        None,
        "VRRP router id of the shared address, which must be unique in its network. Default: the last byte of the address.",
        allowed="a whole number from 1 to 255",
        ge=1,
        le=255,
    )
    gateway_port: Whole = port_setting(8443, "Port that the gateway listens on.")
    gateway_tls: bool = setting(
        True,
        "Whether the gateway speaks TLS. false needs a loopback address or `firstlight_expose`.",
        allowed="true or false",
    )
    gateway_certificate: str | None = setting(
        None,
        "File on the controller with the gateway's certificate, its chain and its private key, in PEM. Default: a self-signed one.",
        allowed="path of a file on the controller",
    )
    gateway_clients: tuple[ClientName, ...] = setting(
        ("default",),
        "Names of the gateway's clients. Each gets an API key, which is revoked when its name is removed.",
        allowed="a list of names of letters, digits, `.`, `_` and `-`",
        min_length=1,
    )
    gateway_body_mib: Whole = setting(
        4, "Size in MiB up to which the gateway accepts a request.", allowed="a whole number from 1 to 64", ge=1, le=64
    )
    gateway_host_requests: Whole = setting(
        256,
        "Requests that the gateway sends to one host at a time. As many more wait, and further ones are answered with 503.",
        allowed="a whole number from 1 to 8192",
        ge=1,
        le=8192,
    )
    gateway_balance: Literal["requests", "prefixes", "router"] = setting(
        "requests",
        "How the gateway chooses the host of a request: the one with the fewest requests (requests), the one that has the prompt's prefix in its cache (prefixes), or vllm-router (router).",
        allowed="requests, prefixes or router",
    )
    gateway_router_port: Whole = port_setting(
        8600, "Port of vllm-router on a gateway's loopback addresses, if `firstlight_gateway_balance` is router."
    )
    gateway_requests_per_minute: Whole | None = setting(
        None,
        "Requests a minute of one client that the gateway accepts. Default: no limit.",
        allowed="a whole number of at least 1",
        ge=1,
    )
    gateway_drain_seconds: Whole = setting(
        600,
        "Seconds that running requests have to finish before their host restarts. The default is the timeout of OpenAI's clients.",
        allowed="a whole number from 0",
        ge=0,
    )
    gateway_restart_at_once: Whole = setting(
        1,
        "Number of hosts of one model that a run restarts at once. If a model has several hosts, at least one always takes requests.",
        allowed="a whole number from 1",
        ge=1,
    )

    gateway_metrics_port: Whole = port_setting(
        8404, "Port at which a gateway offers HAProxy's metrics to hosts of group `monitoring`."
    )

    metrics_bind: Word | None = setting(
        None,
        "Address at which a host offers metrics to hosts of group `monitoring`. Default: that of the inventory; 127.0.0.1 if the host monitors itself alone.",
        allowed="an IP address or localhost",
    )
    metrics_port: Whole = port_setting(9100, "Port of the node exporter on hosts that are monitored.")
    monitoring_bind: Word = setting(
        "127.0.0.1",
        "Address that Prometheus listens on. It requires no key.",
        allowed="an IP address or localhost",
    )
    monitoring_port: Whole = port_setting(9090, "Port of Prometheus.")
    monitoring_probe_port: Whole = port_setting(
        9115, "Port on 127.0.0.1 of the blackbox exporter, which tests the gateways for Prometheus."
    )
    alertmanager_port: Whole = port_setting(9093, "Port of Alertmanager, at `firstlight_monitoring_bind`.")
    alertmanager_config: str | None = setting(
        None,
        "File on the controller with Alertmanager's configuration: who is notified of alerts. Default: nobody.",
        allowed="path of a file on the controller",
    )
    monitoring_days: Whole = setting(
        15, "Days for which Prometheus keeps metrics.", allowed="a whole number of at least 1", ge=1
    )

    @property
    def span_ports(self) -> tuple[int, int]:
        """Return the ports of the first host of a span at which its processes meet, and at which its hosts watch one another."""
        return self.span_port, self.span_port + 1

    @property
    def ray_ports(self) -> tuple[int, int]:
        """Return the first and the last port at which Ray listens on each host of a span, where it starts vLLM's processes."""
        return self.span_port + 2, self.span_port + 1 + RAY_PORTS

    def source_of(self, kind: SourceKind) -> Source:
        """Return where a kind of file comes from, as it is set."""
        return self.source.get(kind, "auto") if isinstance(self.source, dict) else self.source

    def pipeline(self, *, on_cpu: bool) -> int:
        """Return into how many parts the layers are split, in sequence.

        By default a host of a span has whole layers, and its GPUs share each of them. CPU hosts share each layer: vLLM 0.32.0
        prepares the later parts of a sequence on a CPU only where it compiles (warming_up_model in v1/worker/cpu_model_runner.py).

        Args:
            on_cpu: Whether the hosts compute on their CPUs.
        """
        return self.pipeline_parallel or (1 if on_cpu else self.span)


def typed(name: str, value: object) -> str:
    """Return what is typed to give a setting a value, as messages spell it."""
    option = OPTIONS.get(name)
    return f"{option} {value}" if option else f"--set {shlex.quote(f'{name}={value}')}"


def option_of(word: str) -> str:
    """Return the option that an element of `vllm_args` sets, in vLLM's spelling: `--max_model_len=512` is `--max-model-len`."""
    name = word.partition("=")[0]
    return name.replace("_", "-") if name.startswith("--") else name
