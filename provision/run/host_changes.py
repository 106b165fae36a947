"""What a run would change on a host: what the probe found, compared with what is planned.

The plan, the dry run and the run itself decide by these functions whether a host is left as it is.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from provision.catalog import catalog
from provision.catalog.packages import packages_of_component
from provision.catalog.versions import platform_of
from provision.core import features
from provision.core.environment_folders import model_files_there, rebuild_reason
from provision.core.errors import FirstlightError
from provision.core.formatting import GIB, format_bytes
from provision.core.install_paths import SERVICE_USER, install_paths_of
from provision.core.models.facts import HostFacts, Installed
from provision.core.models.inventory import Host
from provision.core.models.records import Part, PlannedChange
from provision.core.models.stack import Stack
from provision.core.models.staged import Staged, StagedFile
from provision.phases.install.drivers import driver_work, older_container_toolkit
from provision.phases.plan import rocm
from provision.phases.stage import builds_of
from provision.phases.stage.image import image_id
from provision.report.layout import fold_names
from provision.run.desired_state import Desired, packages_of
from provision.run.results import PlannedHosts

SHOWN_FILES = 3
"""Changed files that are named; the others are counted."""
_ENDPOINT = (("host", "address"), ("port", "port"), ("served_name", "model name"), ("asked", "attention"))
"""What clients notice of a service: keys of `readiness`, and their names for people."""
_CHECKED_WITH = ("asked", "generation", "processes", "variables", "model_folder")
"""What the checks of an environment depend on: keys of `readiness`."""


def changes_of(
    host: Host,
    facts: HostFacts,
    stack: Stack,
    staged: Staged | None = None,
    desired: Desired | None = None,
    *,
    before: str | None = None,
) -> tuple[PlannedChange, ...]:
    """Return what a run would change on a host; empty where it would change nothing.

    Args:
        staged: The files of the locked combination; None where this machine has not locked it yet.
        desired: The desired state with these files; None without them.
        before: The releases in the environment that the host uses now; None where they are unknown.
    """
    first = list(_driver(host, facts, stack))
    installed = facts.installed
    if desired is not None and staged is not None:
        found = state_changes(desired, facts, staged, before=before)
    elif installed is None or installed.state is None:
        found = list(_installation(host, facts, stack))
    else:
        text = "compared once this version combination is locked: ./firstlight stage"
        found = [PlannedChange(part="environment", sign="?", text=text)]
    if found and (packages := packages_of(stack, facts)):
        first.append(PlannedChange(part="packages", sign="+", text=" ".join(packages)))
    # A described host has no user, and is taken for root.
    is_root = host.connection.become or facts.user.uid in {0, None}
    is_bare = installed is None or not (installed.state or installed.environments)
    if found and is_root and is_bare:
        first.append(PlannedChange(part="account", sign="+", text=f"system user {SERVICE_USER}"))
    return (*first, *found)


def around_lines(hosts: Sequence[Host], plan: PlannedHosts) -> list[str]:
    """Return what a run sets up around the services of hosts, which it compares only when these serve, as lines."""
    found = [one for planned in features.hooks("planned") for one in planned(hosts, plan).items()]
    return [f"{fold_names(names)}: {text}; a run mends it if it differs" for text, names in found if names]


def is_up_to_date(desired: Desired, facts: HostFacts) -> bool:
    """Return whether a probe showed the desired state, so that no phase changes the host; `phases/stage/step.py` applies it.

    Compared are the environment, the image, the model, the tools, changed files, the running service, and its last checks.
    """
    return not state_changes(desired, facts)


def is_restart_only(desired: Desired, facts: HostFacts) -> bool:
    """Return whether only the start of a running service changes: its port, its key, an argument of vLLM, a setting of its unit on the host.

    The last checks of its environment hold then; another attention backend, other GPUs or another number of processes have them run again.
    """
    installed = facts.installed
    if installed is None:
        return False
    unit_alone = "installed.drift" not in facts.unknown and all(
        one.kind in ("unit", "drop_in") for one in installed.drift
    )
    parts = {change.part for change in state_changes(desired, facts)}
    if not parts or not parts <= ({"service", "files"} if unit_alone else {"service"}):
        return False
    state = installed.state or {}
    before, planned = state.get("readiness") or {}, desired.state["readiness"] or {}
    checked = (installed.last_verify or {}).get("environment") == desired.environment
    checked = checked and state.get("stack") == desired.state["stack"]
    return (
        checked and installed.service == "active" and all(before.get(key) == planned.get(key) for key in _CHECKED_WITH)
    )


def state_changes(
    desired: Desired, facts: HostFacts, staged: Staged | None = None, *, before: str | None = None
) -> list[PlannedChange]:
    """Return how a host differs from its desired state, drivers and OS packages left out.

    `staged` has the sizes of files, where they matter, and `before` the builds that the host uses now.
    """
    found = _Comparison(desired, facts, staged, before)
    return [
        *found.environment(),
        *found.image(),
        *found.model(),
        *found.tools(),
        *found.files(),
        *found.service(),
        *found.checks(),
    ]


def missing_files(desired: Desired, facts: HostFacts, files: Sequence[StagedFile]) -> list[StagedFile]:
    """Return the files to send: none of an environment that the host has, and of a model those that it does not have intact."""
    installed = facts.installed
    there = installed is not None and desired.environment in installed.environments
    taken = model_files_there(installed, desired.model.name) if installed and desired.model else set()
    has_image = desired.image is None or (installed is not None and installed.image == image_id(desired.image))
    unneeded = {*(("wheel", "interpreter", "tool") if there else ()), *(("image",) if has_image else ())}
    unneeded |= {"model"} if desired.model_on_host is not None else set()
    return [file for file in files if file.kind not in unneeded and not (file.kind == "model" and file.name in taken)]


def named_builds(builds: Mapping[str, Any]) -> str:
    """Return releases as text: `vLLM 0.32.0, torch 2.13.0`."""
    return ", ".join(f"{name} {version}" for name, version in builds.items())


def release_changes(
    before: Mapping[str, Any], after: Mapping[str, Any], builds_in: Callable[[str], Mapping[str, str]]
) -> tuple[str, ...]:
    """Return what differs between the states of a host before and after a switch of its release, each as `NAME FROM -> TO`.

    `builds_in` returns the releases in the environment of a folder by name, none where they are unknown.
    """
    release = list(_differences([("release", "release")], before, after))
    if not release:
        return ()
    old, new = (builds_in(str(state.get("environment") or "")) for state in (before, after))
    builds = [*_differences([(name, name) for name in new], old, new)]
    found = [
        *(builds or _differences([("environment", "environment")], before, after)),
        *_differences([("model", "model")], before, after),
        *_differences(_ENDPOINT, before.get("readiness") or {}, after.get("readiness") or {}),
    ]
    return (*(found or ["the unit, arguments or variables of the service"]), *release)


def _differences(keys: Iterable[tuple[str, str]], before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """Yield the values that two records have otherwise, by key and name for people."""
    for key, name in keys:
        if key in before and key in after and before[key] != after[key]:
            yield f"{name} {before[key]} -> {after[key]}"


class _Comparison:
    """A host's state beside the desired one."""

    def __init__(self, desired: Desired, facts: HostFacts, staged: Staged | None, before: str | None) -> None:
        self._desired, self._facts, self._staged = desired, facts, staged
        self._builds = named_builds(builds_of(staged.stack)) if staged else desired.environment
        self._installed = facts.installed or Installed(prefix=desired.paths.prefix)
        self._was = before
        self._before: Mapping[str, Any] = self._installed.state or {}

    def environment(self) -> Iterator[PlannedChange]:
        """Compare the environment of Python packages."""
        planned, now = self._desired.environment, self._installed.current
        builds = f"{self._was or now} -> {self._builds}" if now and now != planned else self._builds
        if planned not in self._installed.environments:
            size = self._staged.environment_bytes if self._staged else 0
            text = rebuild_reason(planned, self._facts.installed) or builds
            text += f", about {format_bytes(size)} in {self._desired.paths.prefix}/envs" if size else ""
            send = self._to_send("wheel", "interpreter", "tool", "deb")
            yield PlannedChange(part="environment", sign="~" if now else "+", text=text, send_bytes=send)
        elif now != planned or self._before.get("environment") != planned:
            yield PlannedChange(part="environment", sign="~", text=f"{builds}, on the host already")

    def image(self) -> Iterator[PlannedChange]:
        """Compare the image of the container. podman may have lost it, as by `podman system prune`."""
        planned, now = self._desired.image, self._installed.image
        if planned is not None and now != image_id(planned):
            text = f"{f'{now[:12]} -> ' if now else ''}{image_id(planned)[:12]}, loaded into podman"
            yield PlannedChange(part="image", sign="~" if now else "+", text=text, send_bytes=self._to_send("image"))

    def model(self) -> Iterator[PlannedChange]:
        """Compare the model's folder."""
        planned, now = self._desired.model.name if self._desired.model else None, self._before.get("model")
        missing = len(missing_files(self._desired, self._facts, self._desired.model_files))
        if planned == now and not missing:
            return
        if planned is None:
            yield PlannedChange(part="model", sign="-", text=f"{now} is no longer served")
            return
        model = self._desired.model
        built_in = model is not None and model.kind == "builtin"
        text = f"{now} -> {planned}" if now not in (None, planned) else planned
        text += f", files that are missing or damaged: {missing}" if now == planned else ""
        text += ", built-in: made on the host" if built_in else ""
        text += f", linked from {self._desired.model_on_host}" if self._desired.model_on_host else ""
        yield PlannedChange(part="model", sign="~" if now else "+", text=text, send_bytes=self._to_send("model"))

    def tools(self) -> Iterator[PlannedChange]:
        """Compare what this release of the product itself puts on a host, and its records."""
        if not self._before:
            return
        if any(self._before.get(key) != self._desired.state[key] for key in ("product", "format")):
            yield self._changed("tools", "programs and roles of this release of Firstlight")
        planned, now = self._desired.state["driver"], self._before.get("driver")
        if planned != now:
            yield self._changed("driver", f"recorded as {planned or 'none'} instead of {now or 'none'}")

    def files(self) -> Iterator[PlannedChange]:
        """Name what was changed on the host since the last run."""
        drift = self._installed.drift
        for one in drift[:SHOWN_FILES]:
            yield self._changed("files", f"{one.path}: {one.text}")
        if len(drift) > SHOWN_FILES:
            yield self._changed("files", f"and {len(drift) - SHOWN_FILES} more")
        if reason := self._facts.unknown.get("installed.drift"):
            yield self._changed("files", f"what changed since the last run is unknown: {reason}")

    def service(self) -> Iterator[PlannedChange]:
        """Compare what is served, and how."""
        desired, now = self._desired, self._before.get("readiness") or {}
        # Earlier versions recorded no stack; that alone restarts nothing.
        before = {"stack": desired.state["stack"], **self._before}
        # The recorded or the live release is another one than planned.
        differs = self._installed.release != desired.state["release"] or any(
            before.get(key) != desired.state[key] for key in ("release", "service", "stack", "readiness")
        )
        serves, planned = desired.service.supervisor != "none", desired.readiness or {}
        if not serves:
            if now:
                yield PlannedChange(part="service", sign="-", text=f"{now.get('unit')} is stopped and removed")
            elif self._before and differs:
                yield self._changed("service", "the record of what is served")
            return
        if not now and not self._installed.service:
            key = _key_text(api_key=desired.service.api_key)
            where = f"{desired.service.name} on {planned['host']}:{planned['port']}, {key}"
            yield PlannedChange(part="service", sign="+", text=where)
            return
        named = list(_differences(_ENDPOINT, now, planned)) if now else []
        if named or differs:
            text = ", ".join(named) if named else "its unit, arguments or variables"
            yield self._changed("service", f"{text}; it restarts")
        elif self._installed.service != "active":
            yield self._changed("service", f"it is {self._installed.service or 'not running'}, and is started")

    def checks(self) -> Iterator[PlannedChange]:
        """Say why checks run again where nothing else changes."""
        status = (self._installed.last_verify or {}).get("status")
        if self._before and status not in ("ok", "skip", "warn"):
            ended = f"the last ones ended with `{status}`" if status else "they never ran to their end"
            yield self._changed("checks", f"run again: {ended}")

    @staticmethod
    def _changed(part: Part, text: str) -> PlannedChange:
        return PlannedChange(part=part, sign="~", text=text)

    def _to_send(self, *kinds: str) -> int:
        if self._staged is None:
            return 0
        missing = missing_files(self._desired, self._facts, self._staged.files)
        return sum(file.size for file in missing if file.kind in kinds)


def _driver(host: Host, facts: HostFacts, stack: Stack) -> Iterator[PlannedChange]:
    """Name what is installed below the environment: drivers, fabric manager, ROCm, toolkits."""
    try:
        work = driver_work(host, facts, stack)
    except FirstlightError as error:
        text = facts.os.id and "; ".join(filter(None, (error.text, error.hint)))
        yield PlannedChange(part="driver", sign="?", text=text or "depends on the host's system, which is not known")
        return
    plan, nvidia, amd = stack.driver, facts.nvidia, facts.amd
    if work.driver and plan is not None:
        now = nvidia.driver_version if nvidia else None
        whose = "the distribution's packages" if plan.source == "distribution" else "the vendor's packages"
        text = f"{f'{now} -> ' if now else ''}{plan.version}, {plan.module} kernel module, from {whose}; may need a restart"
        yield PlannedChange(part="driver", sign="~" if now else "+", text=text)
    if work.fabric_manager:
        now = nvidia.fabric_manager_version if nvidia else None
        text = f"fabric manager {f'{now} -> ' if now else ''}{stack.fabric_manager}{'' if work.driver else '; the driver stays'}"
        text += " with nvlsm and ib_umad" if stack.subnet_manager else ""
        yield PlannedChange(part="driver", sign="~" if now else "+", text=text)
    if work.rocm:
        parts = work.rocm["parts"]
        names = ", ".join(" ".join(packages_of_component(part)) for part in parts)
        now = amd.rocm_version if amd else None
        upgraded = stack.rocm is not None and stack.rocm.action == "upgrade"
        text = f"{names}{f' {now} -> {stack.rocm.version}' if upgraded and stack.rocm else ''}, from AMD's packages"
        text += "; needs a reboot" if rocm.DRIVER in parts else ""
        yield PlannedChange(part="driver", sign="~" if upgraded else "+", text=text)
    if work.cuda_compat and stack.cuda_compat:
        text = f"{stack.cuda_compat.package}, only for the service and its checks"
        yield PlannedChange(part="driver", sign="+", text=text)
    if work.cuda_toolkit:
        yield PlannedChange(part="driver", sign="+", text=f"CUDA toolkit {work.cuda_toolkit['version']}")
    if work.container_toolkit:
        older = older_container_toolkit(facts)
        text = f"NVIDIA container toolkit{f' {older}, replaced by a release with the fixes' if older else ''}"
        yield PlannedChange(part="driver", sign="~" if older else "+", text=text)
    if work.slices:
        yield PlannedChange(part="driver", sign="~", text=f"slices of GPUs: {work.slices['layout']}")


def _installation(host: Host, facts: HostFacts, stack: Stack) -> Iterator[PlannedChange]:
    """Name what a first run installs on a host, by what is known before the version combination is locked."""

    def new(part: Part, text: str) -> PlannedChange:
        return PlannedChange(part=part, sign="+", text=text)

    settings, paths = host.settings, install_paths_of(host, facts)
    prefix = paths.prefix
    if stack.interpreter.origin == "managed":
        yield new("python", f"{stack.interpreter.version}, in {prefix}/python")
    need = catalog().needs[platform_of(stack.variant)]
    size = format_bytes(int(need.installed * GIB))
    yield new("environment", f"{named_builds(builds_of(stack))}, about {size} in {prefix}/envs")
    if not settings.serve or stack.vllm is None:
        return
    if settings.model == "builtin":
        yield new("model", "built-in: made on the host")
    elif settings.model_on_host is not None:
        yield new("model", f"{settings.model}, linked from {settings.model_on_host}")
    else:
        yield new("model", settings.model)
    name = paths.unit.removesuffix(".service") if stack.supervisor == "supervisor" else paths.unit
    yield new("service", f"{name}, on {settings.bind}:{settings.port}, {_key_text(api_key=settings.api_key)}")


def _key_text(*, api_key: bool) -> str:
    return f"{'with' if api_key else 'without'} an API key"
