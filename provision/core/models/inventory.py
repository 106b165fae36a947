"""The inventory: its hosts, how each is reached, and the spans that some of them form."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr

from provision.core.models.base import Record
from provision.core.models.settings import Settings, Source, SourceKind

GATEWAY = "gateway"
"""Group of the hosts in front of all that serve."""
MONITORING = "monitoring"
"""Group of the hosts that read the metrics of all others."""


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
    """Algorithms that OpenSSH allows for this host: `ciphers`, `macs`, `kexalgorithms`, `hostkeyalgorithms`."""
    proxy_jump: tuple[Connection, ...] = ()
    """Jump hosts in connection order; `proxy_command` connects through all of them."""
    proxy_command: str | None = None
    connect_timeout_s: float = 10.0
    target: str | None = None
    """Name that OpenSSH resolves in the user's configuration; None: the address."""
    openssh_options: tuple[str, ...] = ()
    """Arguments of OpenSSH that the inventory names, besides port and user."""
    become: bool = False
    become_password_file: str | None = None
    become_password: SecretStr | None = Field(default=None, exclude=True, repr=False)
    """For sudo; in memory only."""
    python_interpreter: str | None = None

    def ssh_words(self, *options: str) -> list[str]:
        """Return a command line of OpenSSH that reaches the host as the user's configuration says; a command may follow."""
        port = ("-p", str(self.port)) if self.port != 22 else ()
        name = self.target or self.address or ""
        return ["ssh", *options, *port, *self.openssh_options, f"{self.user}@{name}" if self.user else name]


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

    def address_of(self, name: str) -> str:
        """Return the IP address of one of the hosts."""
        return self.addresses[self.members.index(name)]


class Service(Record):
    """The place of a service among those of its machine."""

    name: str
    machine: str
    """Name of the machine in the inventory."""
    services: tuple[tuple[str, Settings], ...]
    """All services of the machine with their settings, by the names of their hosts, in the inventory's order."""


class Host(Record):
    """A host of the inventory, or one of several services of a machine, which is named MACHINE@SERVICE."""

    name: str
    groups: tuple[str, ...] = ()
    connection: Connection
    settings: Settings
    span: Span | None = None
    """The hosts that its model is spread over; None where it serves alone."""
    service: Service | None = None
    """None where the machine has one service."""

    @property
    def machine(self) -> str:
        """Return the name of its machine in the inventory."""
        return self.service.machine if self.service else self.name

    @property
    def services(self) -> tuple[tuple[str, Settings], ...]:
        """Return the services of its machine with their settings, by the names of their hosts."""
        return self.service.services if self.service else ((self.name, self.settings),)

    @property
    def is_first(self) -> bool:
        """Whether it is the first service of its machine, for which a run does what is done once a machine."""
        return self.name == self.services[0][0]

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

    def source_of(self, kind: SourceKind) -> Source:
        """Return where a kind of file comes from: on this machine there is nothing but the controller's own."""
        return "controller" if self.connection.kind == "local" else self.settings.source_of(kind)

    @property
    def model_key(self) -> tuple[str | None, ...]:
        """Return what the files of its model depend on: hosts of a class with equal ones get the same files."""
        return self.settings.model_key(self.source_of("model"))

    @property
    def head(self) -> str:
        """Return the host that answers requests to its model: itself, or the head of its span."""
        return self.span.head if self.span else self.name

    @property
    def address_in_span(self) -> str:
        """Return its address in the network between the hosts of its span; empty without one."""
        return self.span.address_of(self.name) if self.span else ""


class Inventory(Record):
    """All hosts of a run, in inventory order, after `--limit`."""

    source: str
    hosts: tuple[Host, ...]
