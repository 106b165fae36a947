"""What really starts: the unit as systemd has it, and what Python imports unasked. Sent before activate.py and write_state.py.

PREFIX/state.unit holds `NAME=VALUE` lines as `systemctl show` prints them; the probe asks for the names in it.
"""

import glob
import os
import re
import subprocess

SYSTEMD_S = 60
"""It answers in milliseconds, or not at all."""
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
"""What decides what is started, as whom, with which variables and limits, and what it may touch. One that a release of
systemd does not know is not printed."""
EXPANDED = ("SystemCallFilter",)
"""Lists that a release of systemd fills in: only whether there is one is compared."""


HOOKS = ("*.pth", "sitecustomize*", "usercustomize*")
"""Files and folders of site-packages that Python runs at each start."""
OWN_HOOKS = ("_virtualenv.pth", "_firstlight_torch.pth")
"""Of those the ones that no wheel brings: uv's, and the one by which a host's own torch is found."""


def hooks(environment):
    """Paths of what Python runs at each start of an environment: those of its wheels, and those that nobody installed."""
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
    """What it prints; None where it does not answer in time. `service` has scope and uid."""
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


def effective(service):
    """The properties of a unit as lines, each at least once, without what systemd adds to a command of its last run."""
    wanted = PROPERTIES.split()
    shown = systemctl(service, "show", "--property=" + ",".join(wanted), service["name"]) or ""
    lines = [re.sub(r" ; start_time=.*", "", line) for line in shown.splitlines() if "=" in line]
    names = {line.partition("=")[0] for line in lines}
    return lines + [f"{name}=" for name in wanted if name not in names]


def comparable(lines):
    """The same without drop-ins, which are looked for by themselves, and with long lists as there or not there."""
    parts = sorted(line.partition("=")[::2] for line in lines)
    return [(name, bool(value) if name in EXPANDED else value) for name, value in parts if name != "DropInPaths"]
