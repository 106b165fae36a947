"""Says whether this environment holds exactly the distributions of its lock.

Run by the environment's own Python: check_lock.py LOCK. Their files are left to manifest.py, importing torch and vLLM to `verify`.
"""

import importlib.metadata
import os
import re
import sys

PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)\s*==\s*([^\s;\\]+)")


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(path):
    with open(path, encoding="utf-8") as file:
        pins = [match.groups() for match in map(PIN.match, file) if match]
    return {canonical(name): version for name, version in pins}


def main():
    wanted = locked(sys.argv[1])
    # Packages of the interpreter that the environment was told to see are not its own.
    own = [os.path.join(sys.prefix, folder) for folder in ("lib", "lib64")]
    found = {
        canonical(item.metadata["Name"]): item
        for item in importlib.metadata.distributions()
        if str(item.locate_file("")).startswith(tuple(own))
    }
    faults = [f"{name} {version} is not installed" for name, version in wanted.items() if name not in found]
    faults += [
        f"{name} is {found[name].version}, not {version}"
        for name, version in wanted.items()
        if name in found and found[name].version != version
    ]
    faults += [f"{name} {item.version} is not in the lock" for name, item in found.items() if name not in wanted]
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        sys.exit("firstlight-error: the environment differs from its lock: " + "; ".join(faults[:5]) + more)
    print(f"{len(wanted)} distributions")


main()
