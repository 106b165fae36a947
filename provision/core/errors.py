"""Errors: one exception a failure class, with its values as data and a fixed exit code.

Exit codes are public (docs/reference/exit-codes.md). The text of an error states what is wrong with which values; the
hint names the next command or the setting to change.
"""

from collections.abc import Iterable, Mapping
from enum import IntEnum
from urllib.parse import urlsplit

from provision.core.grouping import gather


class Exit(IntEnum):
    """Exit codes of all commands except `verify` and `doctor`, which have their own."""

    OK = 0
    RED = 1
    USAGE = 2
    LOCKED = 3
    NO_STACK = 4
    INTERRUPTED = 130


class FirstlightError(Exception):
    """Base of expected failures; shown as text and hint, never as a traceback."""

    exit_code: Exit = Exit.RED
    cause: str | None = None
    """Cause id, where the error knows it (docs/reference/causes.md)."""

    def __init__(self, text: str, *, hint: str | None = None, cause: str | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.hint = hint
        if cause:
            self.cause = cause

    def render(self) -> str:
        """Return the message with its hint."""
        head = f"error: {self.text}"
        return f"{head}\n\nhint: {self.hint}" if self.hint else head


class UsageError(FirstlightError):
    """A wrong option or argument."""

    exit_code = Exit.USAGE


class InventoryError(FirstlightError):
    """The inventory is malformed, or a setting in it is wrong."""

    exit_code = Exit.USAGE


class HostLockedError(FirstlightError):
    """Another run works on the same host."""

    exit_code = Exit.LOCKED


class NoStackError(FirstlightError):
    """No Stack fits a host."""

    exit_code = Exit.NO_STACK


class TransportError(FirstlightError):
    """The host could not be reached, or the connection broke."""


class HostKeyError(TransportError):
    """The host's key has changed or is unknown."""


class SourceError(FirstlightError):
    """A source of files other than the controller gives none: another host, an index, a folder. The controller sends them."""


class RemoteCommandError(FirstlightError):
    """A command on a host failed unexpectedly."""


class StageError(FirstlightError):
    """The files of a Stack are unavailable or wrong."""


class DamagedSourceError(StageError):
    """A file on the controller changed after its hash was verified."""

    def __init__(self, path: str, found: str, recorded: str) -> None:
        """Describe the file; `recorded` is the SHA-256 that it had when it was verified."""
        super().__init__(
            f"{path} is damaged: its SHA-256 is {found}, recorded is {recorded}",
            hint="run the command again: what the wheelhouse keeps is fetched anew. Replace a file of your own",
        )
        self.path = path


class NoCopyError(StageError):
    """A host did not get files from its own source, and the controller has no copy of them."""

    def __init__(self, host: str, files: Mapping[str, str], reason: str | None = None) -> None:
        """Describe the files, their SHA-256 by name; `reason` is why the source did not give one, where that is known."""
        self.files = dict(files)
        names = f"{', '.join([*files][:3])}{' ...' if len(files) > 3 else ''}"
        why = f" ({reason})" if reason else ""
        super().__init__(
            f"host {host} did not get {names} from its local source{why}, and the controller has no copy",
            hint="give the host access to its source, for a gated model by a token in ~/.cache/huggingface/token of its login; "
            "or set firstlight_source: {model: controller}",
        )


class IndexUnreachableError(StageError):
    """Package indexes that may have a build are unreachable."""

    cause = "index-unreachable"

    def __init__(self, places: Mapping[str, str], builds: Iterable[str]) -> None:
        """Describe unreachable indexes: the problem by each one's address, without credentials, and the builds that were requested."""
        self.places = dict(places)
        self.builds = tuple(builds)
        hosts_by_problem = gather((problem, urlsplit(address).netloc or address) for address, problem in places.items())
        sentences = (
            f"{' and '.join(dict.fromkeys(hosts))} cannot be reached ({problem})"
            for problem, hosts in hosts_by_problem.items()
        )
        super().__init__("; ".join(sentences), hint=index_access_hint(self.places))


def index_access_hint(indexes: Iterable[str]) -> str:
    """Return a hint how the controller gets files of unreachable indexes."""
    hosts: dict[str, str] = {}
    for address in indexes:
        hosts.setdefault(urlsplit(address).netloc or address, address)
    return (
        f"let the controller reach {' and '.join(hosts)}; or name a mirror of {' and of '.join(hosts.values())} as an extra index "
        "in your pip or uv settings (PIP_EXTRA_INDEX_URL, UV_INDEX); or bring a bundle (--bundle)"
    )


class BundleError(FirstlightError):
    """A bundle cannot be written, is incomplete, or has no trusted signature."""


class InstallError(FirstlightError):
    """A playbook failed on a host."""


class ServeError(FirstlightError):
    """The service did not start, or answered wrongly."""


class ModelError(FirstlightError):
    """The files are not a model that can be served."""

    exit_code = Exit.USAGE
