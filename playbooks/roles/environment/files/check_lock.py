"""Says whether this environment holds exactly the distributions of its lock; with `files`, also every file of them.

Run by the environment's own Python: check_lock.py LOCK names|files. Importing torch and vLLM is left to `verify`.
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


def wrong_files(distribution):
    """Recorded files that are absent or of another size (bytecode comes and goes)."""
    for file in distribution.files or ():
        path = distribution.locate_file(file)
        try:
            size = os.stat(path).st_size
        except FileNotFoundError:
            if file.suffix != ".pyc":
                yield f"{path} is absent"
            continue
        if file.size is not None and file.size != size and file.suffix != ".pyc":
            yield f"{path} has {size} bytes, not {file.size}"


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
    if sys.argv[2] == "files":
        faults += [fault for item in found.values() for fault in wrong_files(item)]
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        sys.exit("firstlight-error: the environment differs from its lock: " + "; ".join(faults[:5]) + more)
    print(f"{len(wanted)} distributions")


main()
