"""What an administrator chose: packages, settings of kernel, driver and firmware, enabled services."""

from collections.abc import Callable, Iterator, Mapping

from provision.core.folders import product_path
from provision.core.models.facts import Configuration
from provision.core.tables import own_table
from provision.phases.probe.parsers import nvidia
from provision.phases.probe.sections import Output, Section

TABLE = product_path("provision") / "phases/probe/sysctl.toml"
CHOSEN = "["
"""Begins the chosen one of several values, as the kernel prints them: `always [madvise] never`."""


def sysctl_files() -> tuple[str, ...]:
    """Return the files below /proc/sys that are compared."""
    return tuple(name for group in own_table(TABLE)["group"] for name in group["files"])


def configuration(output: Output, unknown: dict[str, str]) -> Configuration | None:
    """Return the configuration; None where the probe was not asked for it."""
    if "packages" not in output.sections:
        return None
    parsers: Mapping[str, tuple[str, Callable[[Section], dict[str, str]]]] = {
        "packages": ("packages", packages),
        "sysctl": ("sysctl_values", sysctl),
        "firmware": ("firmware", assignments),
        "kernel": ("kernel_settings", kernel),
        "driver": ("driver_settings", driver),
        "services": ("enabled_units", units),
    }
    found: dict[str, dict[str, str] | None] = {}
    for name, (section_name, read) in parsers.items():
        section = output[section_name]
        section.note_failure(unknown, f"configuration.{name}", may_be_absent=True)
        found[name] = read(section) if section.ok else {} if section.absent else None
    if found["driver"] is not None:
        found["driver"] |= nvidia.settings(output["nvidia_smi"])
    return Configuration(**found)


def packages(section: Section) -> dict[str, str]:
    """Return versions by package; several of one name, such as kernels, together. Removed ones that left files are none."""
    found: dict[str, list[str]] = {}
    for line in section.values("package"):
        *parts, state = line.split("|")
        if len(parts) >= 2 and state[1:2] == "i":
            found.setdefault(parts[0], []).append("".join(parts[1:]))
    return {name: ", ".join(sorted(versions)) for name, versions in found.items()}


def assignments(section: Section) -> dict[str, str]:
    """Return `key=value` lines."""
    return {key: value.strip() for key, sign, value in (line.partition("=") for line in section.lines()) if sign}


def sysctl(section: Section) -> dict[str, str]:
    """Return settings by name, with blanks between several numbers."""
    values = ((path.removeprefix("/proc/sys/"), value) for path, value in _files(section))
    return {name.replace("/", "."): " ".join(value.split()) for name, value in values}


def kernel(section: Section) -> dict[str, str]:
    """Return each parameter of the command line, and settings by the end of their path."""
    found: dict[str, str] = {}
    for word in (section.value("cmdline") or "").split():
        name, _, value = word.partition("=")
        key = f"cmdline.{name}"
        found[key] = f"{found[key]} {value}" if key in found else value
    for path, value in _files(section):
        found[path.removeprefix("/sys/").removeprefix("devices/system/")] = _chosen(value)
    return found


def driver(section: Section) -> dict[str, str]:
    """Return parameters of the driver: as it reports them itself, and those of its modules."""
    found: dict[str, str] = {}
    for path, value in _files(section):
        if path.endswith("/params"):
            name, _, setting = value.partition(":")
            found[name] = setting.strip()
        else:
            module, _, name = path.removeprefix("/sys/module/").partition("/parameters/")
            found[f"{module}.{name}"] = value
    return found


def units(section: Section) -> dict[str, str]:
    """Return the state of each unit file that is enabled or masked."""
    lines = (line.split() for line in section.lines())
    return {words[0]: words[1] for words in lines if len(words) >= 2}


def _files(section: Section) -> Iterator[tuple[str, str]]:
    """Yield path and line of each `path:line` line; the lines may hold slashes, and the paths no colon."""
    for line in section.lines():
        path, sign, value = line.partition(":")
        if path.startswith("/") and sign:
            yield path, value.strip()


def _chosen(value: str) -> str:
    words = [word for word in value.split() if word.startswith(CHOSEN)]
    return words[0].strip("[]") if len(words) == 1 else value
