"""A list of all files of an installation, to compare two states of a host."""

import json
import re

from tests.fleet.hosts import FleetHost
from tests.fleet.serving import PREFIX

MAY_DIFFER = {
    r"cache/.*": "what the engine compiled and keeps between starts",
    r"envs/[^/]+/\.complete": "when the environment was built",
    r"envs/.*\.dist-info/(RECORD|uv_cache\.json)": "when the installer unpacked a wheel",
    r"envs/[^/]+/manifest\.txt": "the checksums of those",
    r"envs/.*/__pycache__(/.*)?": "byte code, which holds the path of its source and the time; verify compares it with its source",
    r"envs/[^/]+/bytecode\.txt": "its checksums",
    r"envs/[^/]+/stack\.json": "the plan that it was built by, which lists the packages that the host lacked then",
    r"etc/set-aside(/.*)?": "drop-ins that a repair took away",
    r"etc/started": "what the service was started from, which names the environment's folder",
    r"logs/.*": "a summary of each run",
    r"run/.*": "notes of living processes",
    r"state\.sha256": "checksums of files that name the environment's folder",
    r"state\.files": "sizes and times of files whose content this list compares",
    r"verify/.*": "results of checks, with their times",
}
"""Files that may differ after a repair, by their path below the prefix, with the reason."""

_LIST = """
import hashlib, json, os, pwd, re, stat, sys
prefix, live = sys.argv[1], os.path.basename(os.path.realpath(sys.argv[1] + "/current"))
plain = re.sub(r"-[0-9]+$", "", live)
found = {}
def note(path):
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        content = os.readlink(path)
    elif stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            content = file.read()
        if not b"\\0" in content[:4096]:
            content = content.replace(live.encode(), plain.encode())
        lines = content.decode(errors="replace") if os.path.basename(path) == "state.unit" else ""  # to read in a failure
        content = f"{len(content)} bytes {hashlib.sha256(content).hexdigest()} {lines}"
    else:
        content = ""
    owner = pwd.getpwuid(status.st_uid).pw_name
    name = os.path.relpath(path, prefix).replace(live, plain)
    found[name] = f"{stat.filemode(status.st_mode)} {owner} {content}".replace(live, plain)
for top in (prefix, "/etc/systemd/system"):
    for folder, folders, names in os.walk(top):
        for name in folders + names:
            if top == prefix or "firstlight" in name or "firstlight" in folder:
                note(os.path.join(folder, name))
print(json.dumps(found))
"""


def listing(host: FleetHost) -> dict[str, str]:
    """Return mode, owner, size and digest of every file of an installation by its path below the prefix, the units' files included.

    The number at the end of a rebuilt environment's folder is removed from names and texts.
    """
    output = host.sh(f"python3 - {PREFIX} <<'END'\n{_LIST}\nEND\n", timeout_s=180)
    found: dict[str, str] = json.loads(output)
    return found


def differences(before: dict[str, str], after: dict[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """Return the differences by path, except those that `MAY_DIFFER` names."""
    ignored = re.compile("|".join(MAY_DIFFER))
    return {
        path: (before.get(path), after.get(path))
        for path in before.keys() | after.keys()
        if before.get(path) != after.get(path) and not ignored.fullmatch(path)
    }
