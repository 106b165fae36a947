"""Facts that are not probed: read from a file of JSON, or of a hypothetical host from one line of text: `RTX5090`, or `gpu=H100x8 driver=535.183.01 os=ubuntu-22.04 ...`."""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from provision.catalog import catalog
from provision.catalog.rows.hardware import NvidiaCard
from provision.core.errors import UsageError
from provision.core.formatting import GIB
from provision.core.json_text import parse
from provision.core.models.facts import (
    Amd,
    AmdGpu,
    Cpu,
    Disk,
    HostFacts,
    Memory,
    Nvidia,
    NvidiaGpu,
    OperatingSystem,
    Python,
    User,
)
from provision.phases.plan.cards import amd_row, named_size, nvidia_by_name, plain_name

NAME = "what-if"
HOSTS = "hosts"
"""The key for the number of such hosts that one model is spread over, which is a setting and no fact."""
MOST_SIMILAR = 5
"""The limit for names that an error suggests."""
MOST_CARDS = 64
"""The limit for cards of one kind in one host."""


def parse_what_if(text: str) -> HostFacts:
    """Return the facts of the described host; other facts are unknown.

    Raises:
        UsageError: A key is unknown or repeated, or a value is malformed.
    """
    values: dict[str, Any] = {key: _KEYS[key].value(key, text) for key, text in _pairs(text).items()}
    system = dict(values.get("os", {}))
    if "glibc" in values:
        system |= {"libc": "glibc" if values["glibc"] else "musl", "libc_version": values["glibc"]}
    release = next(
        (row for row in catalog().linux_releases if row.covers(system.get("id"), system.get("version_id"))), None
    )
    if release:
        system = {"libc": release.libc, "libc_version": release.libc_version} | system
        contained = {"glibc": release.libc_version, "python": release.python}
        values = {key: value for key, value in contained.items() if value} | values
    nvidia, amd = values.get("gpu", (None, None))
    if machine := _machine(nvidia, values.get("arch")):
        values["arch"] = machine
    unknown = {key.fact: "not given" for name, key in _KEYS.items() if key.fact and name not in values}
    unknown["programs"] = "not part of a described host"
    for key, vendor, gpus, example in (("driver", "NVIDIA", nvidia, "H100x8"), ("rocm", "AMD", amd, "MI300Xx8")):
        if values.get(key) and gpus is None:
            raise UsageError(
                f"`{key}=` needs a host with {vendor} GPUs, and the text names none",
                hint=f"add gpu=, as in gpu={example}",
            )
    return HostFacts(
        host=NAME,
        probed_at="1970-01-01T00:00:00.000Z",
        os=OperatingSystem(**system, machine=machine),
        user=User(),
        cpu=Cpu(isa=values.get("cpu")),
        memory=Memory(total=values.get("ram")),
        disks=(Disk(path="/", mount="/", free=values["disk"]),) if "disk" in values else (),
        pythons=(Python(path="/usr/bin/python3", version=values["python"]),) if "python" in values else (),
        nvidia=nvidia.model_copy(update={"driver_version": values.get("driver")}) if nvidia else None,
        amd=amd.model_copy(update={"rocm_version": values.get("rocm")}) if amd else None,
        container=values.get("container"),
        unknown=unknown,
    )


def hosts_of_what_if(text: str) -> int:
    """Return the number of such hosts that one model is to be spread over.

    Raises:
        UsageError: As `parse_what_if`.
    """
    return int(_KEYS[HOSTS].value(HOSTS, _pairs(text).get(HOSTS, "1")))


def _machine(nvidia: Nvidia | None, requested: str | None) -> str | None:
    """Return the processor's architecture: the value of arch=, else that of a card's board."""
    rows = [row for gpu in (nvidia.gpus if nvidia else ()) if (row := nvidia_by_name(gpu.name)) and row.machine]
    if requested is not None and rows and rows[0].machine != requested:
        raise UsageError(
            f"`arch={requested}` contradicts {rows[0].name}: its board has a processor of {rows[0].machine}",
            hint=f"remove arch, or write arch={rows[0].machine}",
        )
    return requested or (rows[0].machine if rows else None)


def _pairs(text: str) -> dict[str, str]:
    """Return the values by key. Words before the first key name the cards, and may have blanks as any value."""
    cards, *rest = re.split(r"(?:^|\s+)(\S+?)=", text.strip())
    named = [*zip(rest[::2], rest[1::2], strict=True)]
    found: dict[str, str] = {}
    for key, value in [("gpu", cards), *named] if cards else named:
        if not value:
            raise UsageError(f"`{key}=` is not key=value", hint="as in: gpu=H100x8 driver=580.65.06 os=ubuntu-24.04")
        if key not in _KEYS:
            near = difflib.get_close_matches(key.lower(), _KEYS, n=1, cutoff=0.0)
            raise UsageError(
                f"`{key}` is not a key of --what-if", hint=f"did you mean `{near[0]}`? The keys are: {', '.join(_KEYS)}"
            )
        if key in found:
            raise UsageError(f"`{key}` occurs twice: {found[key]} and {value}", hint="remove one of the two")
        found[key] = value
    return found


def _gpu(value: str) -> tuple[Nvidia | None, Amd | None]:
    if value.lower() == "none":
        return None, None
    nvidia: list[NvidiaGpu] = []
    amd: list[AmdGpu] = []
    for part in value.split(","):
        name, count = _counted(part.strip())
        if amd_row(name):
            amd += [AmdGpu(index=len(amd) + number, name=name) for number in range(count)]
        elif row := nvidia_by_name(name):
            gpu = NvidiaGpu(
                index=0, name=name, memory_total=_memory(name, row), mig_mode="disabled" if row.mig else None
            )
            nvidia += [gpu.model_copy(update={"index": len(nvidia) + number}) for number in range(count)]
        else:
            raise _unknown_card(name)
    return Nvidia(gpus=tuple(nvidia)) if nvidia else None, Amd(gpus=tuple(amd)) if amd else None


def _memory(name: str, row: NvidiaCard) -> int | None:
    """Return the memory of a card whose name has a size, which a driver reports a little smaller; None if it has none.

    The name of a board with a processor has the size of the processor's memory.
    """
    size, known = named_size(name), (row.memory_gib, *(row.smaller or {}).values())
    if size is None or (row.machine and size > row.memory_gib):
        return None
    near = [gib for gib in known if gib <= size <= gib + max(1, size // 8)]
    if near:
        return max(near) * GIB
    sizes = ", ".join(f"{gib} GiB" for gib in sorted({*known}))
    raise UsageError(
        f"`gpu={name}`: {row.name} with {size} GB is not in the catalog",
        hint=f"it has {row.name} with {sizes}; without a size, the plan counts {row.memory_gib} GiB",
    )


def _counted(text: str) -> tuple[str, int]:
    """Return the name and the number of cards: `H100x8`, `8xH100`, and `RTX5090`, which is one."""
    match = re.fullmatch(r"(?P<first>\d+) *x *(?P<after>.+)|(?P<before>.+?) *x *(?P<last>\d+)", text, re.IGNORECASE)
    if match is None or _is_known(text):
        return text, 1
    name, count = match["after"] or match["before"], int(match["first"] or match["last"])
    if 1 <= count <= MOST_CARDS:
        return name, count
    if not _is_known(name):  # `RTX5999` is no number of cards
        return text, 1
    raise UsageError(
        f"`gpu={text}` does not name 1 to {MOST_CARDS} GPUs of a kind",
        hint="as in gpu=H100x8 or gpu=RTX4090x1,RTX2080Tix1",
    )


def _is_known(name: str) -> bool:
    return (amd_row(name) or nvidia_by_name(name)) is not None


def _unknown_card(name: str) -> UsageError:
    known = [*(row.name for row in catalog().nvidia_cards), *(row.name for row in catalog().amd_cards)]
    folded = {item.lower(): item for item in known}
    near = difflib.get_close_matches(plain_name(name), folded, n=MOST_SIMILAR, cutoff=0.5)
    named = ", ".join(f"`{folded[item]}`" for item in near)
    meant = f"did you mean {'one of ' if len(near) > 1 else ''}{named}? " if near else ""
    return UsageError(f"`{name}` is not a GPU in the catalog", hint=f"{meant}provision/catalog/gpus.toml has all names")


def _os(value: str) -> dict[str, Any]:
    identity, _, version = value.partition("-")
    managers = {row.id: row.manager for row in catalog().distributions}
    if identity not in managers:
        near = difflib.get_close_matches(identity.lower(), managers, n=1)
        hint = f"did you mean `{near[0]}`? " if near else ""
        raise UsageError(
            f"`os={value}`: `{identity}` is not a known Linux distribution",
            hint=f"{hint}Known are: {', '.join(managers)}; for another one, write glibc=2.39 python=3.12",
        )
    return {"id": identity, "version_id": version, "package_manager": managers[identity]}


@dataclass(frozen=True)
class Key:
    """A key of the text: the form of its values, and how they are read."""

    form: str
    """A regular expression."""
    hint: str = ""
    read: Callable[[str], Any] = str
    fact: str | None = None
    """The path of the fact that is unknown without the key."""

    def value(self, key: str, text: str) -> Any:
        """Return what a text of the key means."""
        if not re.fullmatch(self.form, text):
            raise UsageError(f"`{key}={text}` cannot be read", hint=self.hint)
        return self.read(text)


def _version(example: str, fact: str | None = None) -> Key:
    hint = f"numbers with dots, as in {example}"
    return Key(r"none|\d{1,9}(\.\d{1,9})+", hint, lambda text: None if text == "none" else text, fact)


def _one_of(*words: str, fact: str, read: Callable[[str], Any] = str) -> Key:
    return Key("|".join(words), f"one of: {', '.join(words)}", read, fact)


def _gib(example: str, fact: str) -> Key:
    hint = f"a number of GiB, as in {example}"
    return Key(r"\d{1,9}(\.\d+)?", hint, lambda text: int(float(text) * GIB), fact)


_KEYS = {
    HOSTS: Key(r"0?[1-9]|[1-5]\d|6[0-4]", f"a number of hosts from 1 to 64, as in {HOSTS}=2", int),
    "gpu": Key(r"(?s:.+)", read=_gpu, fact="pci_gpus"),
    "driver": _version("driver=580.95.05", "nvidia.driver_version"),
    "rocm": _version("rocm=7.2.2"),
    "os": Key("[^-]*-.+", "ID-VERSION_ID as in os-release: os=ubuntu-22.04, os=debian-12, os=rhel-9.4", _os, "os.id"),
    "python": replace(_version("python=3.12", "pythons"), form=r"\d{1,9}(\.\d{1,9})+"),
    "arch": _one_of("x86_64", "aarch64", fact="os.machine"),
    "cpu": _one_of("sse4_2", "avx2", "avx512", "amx", fact="cpu.isa"),
    "glibc": _version("glibc=2.35", "os.libc"),
    "ram": _gib("ram=64", "memory.total"),
    "disk": _gib("disk=64", "disks"),
    "container": _one_of("yes", "no", fact="container", read=lambda text: "container" if text == "yes" else None),
}


_FACTS: TypeAdapter[tuple[HostFacts, ...]] = TypeAdapter(tuple[HostFacts, ...])


def read_facts(text: str, *, where: str) -> tuple[HostFacts, ...]:
    """Return host facts from JSON: one host's, as a run stores them, or a list, as `probe --json` prints them.

    Raises:
        UsageError: The text contains no facts.
    """
    hint = "facts are what `./firstlight probe --json` prints, and what each run keeps under logs/RUN/facts/"
    try:
        document = parse(text)
        # Another version may have kept more.
        found = _FACTS.validate_python(document if isinstance(document, list) else [document], extra="ignore")
    except ValidationError as error:
        first = error.errors()[0]
        number, *rest = first["loc"]
        place = ".".join(map(str, rest if isinstance(document, dict) else (number, *rest))) or "the whole text"
        raise UsageError(f"{where}: no host facts: {place}: {first['msg']}", hint=hint) from None
    except ValueError as error:
        raise UsageError(f"{where}: no host facts: no JSON: {error}", hint=hint) from None
    if not found:
        raise UsageError(f"{where}: no host facts: the list is empty", hint=hint)
    return found
