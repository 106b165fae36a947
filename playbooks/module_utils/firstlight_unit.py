"""What really starts: the unit as systemd has it, and the files that Python runs at each start.

PREFIX/state.unit holds `NAME=VALUE` lines as `systemctl show` prints them; the probe asks for the names in it.
"""

from __future__ import annotations

import glob
import os
import re
import subprocess

from ansible.module_utils.firstlight_files import read, write

GATEWAY_UNIT = "firstlight-gateway.service"
"""Unit of a gateway, which may run on a host that serves; no release has it."""
SYSTEMD_S = 60
"""Seconds for one answer of systemctl; it takes milliseconds, or never comes."""
PROPERTIES = """
    FragmentPath DropInPaths NeedDaemonReload UnitFileState Type Restart KillMode
    ExecCondition ExecStartPre ExecStart ExecStartPost ExecReload ExecStop ExecStopPost
    User Group DynamicUser SupplementaryGroups PAMName WorkingDirectory RootDirectory RootImage UMask
    Environment EnvironmentFiles PassEnvironment UnsetEnvironment
    LimitNOFILE LimitMEMLOCK LimitAS LimitDATA LimitSTACK TasksMax MemoryMax MemoryHigh MemorySwapMax
    CPUQuotaPerSecUSec AllowedCPUs CPUAffinity AllowedMemoryNodes Nice CPUSchedulingPolicy OOMScoreAdjust
    ProtectSystem ProtectHome ReadWritePaths ReadOnlyPaths InaccessiblePaths ExecPaths NoExecPaths
    BindPaths BindReadOnlyPaths TemporaryFileSystem PrivateTmp PrivateDevices PrivateNetwork PrivateUsers
    NetworkNamespacePath NoNewPrivileges CapabilityBoundingSet AmbientCapabilities SecureBits
    ProtectProc ProcSubset ProtectKernelTunables ProtectKernelModules ProtectKernelLogs ProtectControlGroups
    ProtectHostname ProtectClock LockPersonality MemoryDenyWriteExecute RestrictRealtime RestrictSUIDSGID
    RestrictNamespaces RemoveIPC RestrictAddressFamilies SystemCallArchitectures SystemCallFilter SystemCallErrorNumber
    DevicePolicy DeviceAllow IPAddressAllow IPAddressDeny StandardOutput StandardError
"""
"""What decides what is started, as whom, with which variables and limits, and what it may touch. systemctl prints no
property that its release does not know."""
EXPANDED = ("SystemCallFilter",)
"""Lists that systemd expands differently in each release: only whether there is one is compared."""

HOOKS = ("*.pth", "sitecustomize*", "usercustomize*")
"""Files and folders of site-packages that Python runs at each start."""
OWN_HOOKS = ("_virtualenv.pth", "_firstlight_torch.pth")
"""Hooks that no wheel contains: the one of uv, and the one that adds the torch of the host."""


def find_hooks(environment):
    """Return the paths of startup hooks: those that were installed, and foreign ones."""
    try:
        with open(os.path.join(environment, "manifest.txt"), encoding="utf-8", errors="surrogateescape") as file:
            installed = {os.path.join(environment, line.rstrip("\n").split(" ", 2)[2]) for line in file}
    except OSError:
        return [], []
    folder = os.path.join(environment, "lib", "python3*", "site-packages")
    found = sorted(path for pattern in HOOKS for path in glob.glob(os.path.join(folder, pattern)))
    known = [path for path in found if path in installed or os.path.basename(path) in OWN_HOOKS]
    return known, [path for path in found if path not in known]


def systemctl(service, *arguments):
    """Return what systemctl prints; None where it does not answer in time. `service` has `scope` and `uid`."""
    if service["scope"] == "user":
        os.environ.setdefault("XDG_RUNTIME_DIR", f"/run/user/{service['uid']}")
    try:
        return subprocess.run(
            ["systemctl", f"--{service['scope']}", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=SYSTEMD_S,
            check=False,
        ).stdout.decode(errors="replace")
    except subprocess.TimeoutExpired:
        return None


def unit_properties(service):
    """Return the properties of a unit as lines, each at least once, without the times of its last run."""
    wanted = PROPERTIES.split()
    shown = systemctl(service, "show", "--property=" + ",".join(wanted), service["name"]) or ""
    lines = [re.sub(r" ; start_time=.*", "", line) for line in shown.splitlines() if "=" in line]
    names = {line.partition("=")[0] for line in lines}
    return lines + [f"{name}=" for name in wanted if name not in names]


def comparable(lines):
    """Return properties as they are compared: without drop-ins, and expanded lists reduced to a boolean."""
    parts = sorted(line.partition("=")[::2] for line in lines)
    return [(name, bool(value) if name in EXPANDED else value) for name, value in parts if name != "DropInPaths"]


def record_unit(prefix, path):
    """Add a unit to the list by which uninstall finds units, even after an interrupted installation."""
    record = os.path.join(prefix, "etc", "units")
    known = (read(record) or "").split()
    if path not in known:
        write(record, "\n".join([*known, path]) + "\n")
