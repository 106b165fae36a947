"""Records the state that was reached, and removes what no live or previous environment needs; says what changed, as JSON.

    seal.py PREFIX

Writes, in this order: etc/started (what the running service was started from), state.sha256 (our small files, for
`sha256sum -c`), state.json. service.env is left out of the sums: it is not readable by everybody.
"""

import hashlib
import json
import os
import shutil
import sys


def read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None


def write_if_other(path, text, changed):
    if read(path) == text:
        return
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{path}.new", path)
    changed.append(path)


def sums(prefix, request):
    environment = os.path.join(prefix, "envs", request["digest"])
    paths = [os.path.join(environment, name) for name in (".complete", "lock.txt", "stack.json", "pyvenv.cfg")]
    paths += [
        os.path.join(prefix, "bin", name) for name in sorted(os.listdir(os.path.join(prefix, "bin"))) if name != "uv"
    ]
    if request["service"].get("unit"):
        paths.append(request["service"]["unit_path"])
    if request["service"].get("config"):
        paths.append(os.path.join(prefix, "etc", "supervisord.conf"))
    for path in paths:
        with open(path, "rb") as file:
            yield f"{hashlib.sha256(file.read()).hexdigest()}  {path}\n"


def remove(path, changed):
    if os.path.isdir(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)
    changed.append(path)


def interpreter_homes(environments):
    """Folders that the kept environments' interpreters lie in, by each pyvenv.cfg."""
    for environment in environments:
        for line in (read(os.path.join(environment, "pyvenv.cfg")) or "").splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "home":
                yield os.path.realpath(value.strip())


def prune(prefix, request, changed):
    kept = [os.path.realpath(os.path.join(prefix, name)) for name in ("current", "previous")]
    for entry in sorted(os.scandir(os.path.join(prefix, "envs")), key=lambda entry: entry.name):
        # Names with a dot are a build's own, and it removes them itself.
        if entry.is_dir() and not entry.name.startswith(".") and os.path.realpath(entry.path) not in kept:
            remove(entry.path, changed)
    homes = list(interpreter_homes(kept))
    for entry in sorted(os.scandir(os.path.join(prefix, "python")), key=lambda entry: entry.name):
        if not any(home.startswith(os.path.realpath(entry.path) + os.sep) for home in homes):
            remove(entry.path, changed)


def prune_units(prefix, request, changed):
    record = os.path.join(prefix, "etc", "units")
    live = request["service"]["unit_path"] if request["service"].get("unit") else None
    known = (read(record) or "").split()
    for path in known:
        if path != live and os.path.exists(path):
            remove(path, changed)
    if known and known != [live]:
        write_if_other(record, "".join(f"{path}\n" for path in known if path == live), changed)


def main():
    prefix = sys.argv[1]
    with open(os.path.join(prefix, "current", "service.json"), encoding="utf-8") as file:
        request = json.load(file)
    changed = []
    write_if_other(
        os.path.join(prefix, "etc", "started"), f"{request['service']['digest']} {request['digest']}\n", changed
    )
    write_if_other(os.path.join(prefix, "state.sha256"), "".join(sums(prefix, request)), changed)
    prune(prefix, request, changed)
    prune_units(prefix, request, changed)
    write_if_other(
        os.path.join(prefix, "state.json"), json.dumps(request["state"], indent=1, sort_keys=True) + "\n", changed
    )
    print(json.dumps({"changed": changed}))


main()
