"""What really starts and runs: the unit as systemd has it, files that override it, files that Python runs at each start.

PREFIX/state.unit holds `NAME=VALUE` lines as `systemctl show` prints them; the probe asks for the names in it.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
from fnmatch import fnmatchcase

from ansible.module_utils.firstlight_host import TIMED_OUT, HostError, read, run, write

SYSTEMD_S = 60
"""Seconds for one answer of systemctl; it takes milliseconds, or never comes."""
NOT_SETTINGS = (
    # What a unit does now, or did.
    *("*Timestamp", "*TimestampMonotonic", "ExecMain*", "*PID", "*Result", "Result", "Status*", "NRestarts"),
    "InvocationID",
    *("ActiveState", "SubState", "FreezerState", "Job", "Can*", "UID", "GID", "Refs", "Markers", "ActivationDetails"),
    *("ControlGroup*", "Effective*", "*Current", "*Available", "*Peak", "CPUUsageNSec", "NFileDescriptorStore"),
    *("IPIngressBytes", "IPIngressPackets", "IPEgressBytes", "IPEgressPackets", "IORead*", "IOWrite*"),
    # Its place among other units, which come and go; those that can stop it are named by `serving.schedule`.
    *("After", "Before", "Wants", "*By", "*Of", "Triggers", "UnitFilePreset"),
    # Follows the size of the host's memory.
    *("LimitNPROC*", "LimitSIGPENDING*"),
    # The same commands as in the properties without `Ex`.
    "Exec*Ex",
)
"""Patterns of properties that are not recorded: all others decide what is started, as whom, with which variables and limits, what it may
touch, and what ends it."""
EXPANDED = ("SystemCallFilter",)
"""Lists that systemd expands differently in each release: only whether there is one is compared."""
UNORDERED = re.compile(
    r"((/\S*|\S+\.(service|socket|target|slice|mount|path|timer|scope|device|swap))( |$))+|\{ path=/usr/bin/podman .*"
)
"""Values that are lists of units (`Requires`) or of paths (`RequiresMountsFor`), and commands of podman's generator: they are in another order
after each reload."""
WITHOUT_RESTART = ("DropInPaths", "UnitFileState")
"""Properties that do not change what runs: a unit is enabled while it runs."""

HOOKS = ("*.pth", "sitecustomize*", "usercustomize*")
"""Files and folders of site-packages that Python runs at each start."""
OWN_HOOKS = ("_virtualenv.pth", "_firstlight_torch.pth")
"""Hooks that no wheel contains: the one of uv, and the one that adds the torch of the host."""


def find_hooks(environment):
    """Return the paths of startup hooks: those that were installed, and foreign ones."""
    listed = read(os.path.join(environment, "manifest.txt"))
    if listed is None:
        return [], []
    installed = {os.path.join(environment, line.split(" ", 2)[2]) for line in listed.split("\n") if line}
    folder = os.path.join(environment, "lib", "python3*", "site-packages")
    found = sorted(path for pattern in HOOKS for path in glob.glob(os.path.join(folder, pattern)))
    known = [path for path in found if path in installed or os.path.basename(path) in OWN_HOOKS]
    return known, [path for path in found if path not in known]


def systemctl(service, *arguments):
    """Return what systemctl prints; None where it does not answer in time. `service` has `scope` and `uid`."""
    if service["scope"] == "user":
        os.environ.setdefault("XDG_RUNTIME_DIR", f"/run/user/{service['uid']}")
    status, out, _said = run("systemctl", f"--{service['scope']}", *arguments, timeout_s=SYSTEMD_S)
    return None if status == TIMED_OUT else out


def unit_properties(service):
    """Return all settings of a unit as lines, each at least once, without the times of its last run."""
    shown = systemctl(service, "show", "--all", service["name"]) or ""
    lines = [_ordered(re.sub(r" ; start_time=.*", "", line)) for line in shown.splitlines() if "=" in line]
    return [line for line in lines if not any(fnmatchcase(line.partition("=")[0], each) for each in NOT_SETTINGS)]


def _ordered(line):
    """Return a property with what has no order of its own in alphabetical order."""
    name, _sign, value = line.partition("=")
    return f"{name}={' '.join(sorted(value.split()))}" if UNORDERED.fullmatch(value) else line


def comparable(lines):
    """Return properties as they are compared: without those that need no restart, words in order, and expanded lists reduced to a boolean."""
    parts = sorted(line.partition("=")[::2] for line in lines)
    values = [(name, value if value.startswith("{ path=") else sorted(value.split())) for name, value in parts]
    return [(name, bool(value) if name in EXPANDED else value) for name, value in values if name not in WITHOUT_RESTART]


def record_unit(prefix, path):
    """Add a unit to the list by which uninstall finds units, even after an interrupted installation."""
    record = os.path.join(prefix, "etc", "units")
    known = (read(record) or "").split()
    if path not in known:
        write(record, "\n".join([*known, path]) + "\n")


def unit_overrides(service):
    """Return drop-ins of this unit alone, and unit files that take precedence over ours."""
    home = os.path.expanduser("~")
    if service["supervisor"] == "systemd":
        first = ["/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/transient"]
        folders = [*first, *(f"{at}/systemd/system" for at in ("/etc", "/run", "/usr/local/lib", "/usr/lib"))]
    elif service["supervisor"] == "systemd-user":
        run = f"/run/user/{os.geteuid()}/systemd"
        first = [f"{home}/.config/systemd/user.control", f"{run}/user.control", f"{run}/transient"]
        folders = [*first, f"{home}/.config/systemd/user", f"{run}/user", f"{home}/.local/share/systemd/user"]
    else:
        return []
    # The second name is that of all units of this product.
    names = [service["name"], f"{service['name'].partition('-')[0]}-.service"]
    if service["unit_path"].endswith(".container"):
        folders.append(os.path.dirname(service["unit_path"]))
        names.append(os.path.basename(service["unit_path"]))
    found = [path for folder in folders for name in names for path in sorted(glob.glob(f"{folder}/{name}.d/*.conf"))]
    return found + [path for folder in first for path in [f"{folder}/{service['name']}"] if os.path.lexists(path)]


def other_units(service):
    """Return the file of the unit that a service of the same name has without a container, or in one: the one would hide the other."""
    if service["supervisor"] != "systemd" or not service.get("unit"):
        return []
    stem = service["name"].partition(".service")[0]
    paths = [f"/etc/systemd/system/{service['name']}", f"/etc/containers/systemd/{stem}.container"]
    return [path for path in paths if path != service["unit_path"] and os.path.lexists(path)]


def remove_other_unit(service):
    """Remove what `other_units` finds, with its links from the targets that start it."""
    for path in other_units(service):
        if path.startswith("/etc/systemd/"):
            run("systemctl", "disable", service["name"], timeout_s=SYSTEMD_S)
        else:  # while systemd still knows how to remove the container
            run("systemctl", "stop", service["name"])
        os.unlink(path)


def set_aside(prefix, path):
    """Move a file to PREFIX/etc/set-aside; an earlier one of the same path is kept."""
    kept = os.path.join(prefix, "etc", "set-aside")
    os.makedirs(kept, mode=0o700, exist_ok=True)
    target, number = kept + path, 1
    while os.path.lexists(target):
        number += 1
        target = f"{kept}{path}.{number}"
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.move(path, target)
    folder = os.path.dirname(path)
    if folder.endswith(".d") and not os.listdir(folder):
        os.rmdir(folder)


def unit_state(prefix, service):
    """Return whether a running unit must be restarted, and whether it failed or is between two starts.

    It must be restarted where systemd would start something else than was recorded, or where a signal stopped one of
    its processes.
    """
    answer = systemctl(service, "show", "--property=ActiveState,MainPID", service["name"])
    if answer is None:
        text = f"systemd did not report the state of {service['name']} in time"
        raise HostError(text, "look at it there: systemctl status")
    values = dict(line.split("=", 1) for line in answer.splitlines())
    failing = values.get("ActiveState") in ("failed", "activating", "deactivating")
    recorded = (read(os.path.join(prefix, "state.unit")) or "").splitlines()
    # An earlier release may have recorded fewer properties.
    names = {line.partition("=")[0] for line in recorded}
    now = [line for line in unit_properties(service) if line.partition("=")[0] in names]
    return comparable(recorded) != comparable(now) or has_stopped(int(values.get("MainPID") or 0)), failing


def has_stopped(main_pid):
    """Return whether the process or one below it is stopped by a signal."""
    found = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(path, "rb") as file:
                state, parent = file.read().rpartition(b")")[2].split()[:2]
        except OSError:  # the process has ended
            continue
        found[int(path.split("/")[2])] = state, int(parent)
    ours = {main_pid} if main_pid in found else set()
    while below := {pid for pid, (_state, parent) in found.items() if parent in ours} - ours:
        ours |= below
    return any(found[pid][0] in (b"T", b"t") for pid in ours)
