"""Records the state that was reached, and removes what no live or previous environment needs; says what changed, as JSON.

    write_state.py PREFIX

Writes, in this order: etc/started (what the running service was started from), what the next probe compares, and
state.json. What it compares: state.sha256 (small files that everybody may read, for `sha256sum -c`), state.files (secrets
and large files: mode, uid, gid, size, times of modification and of change, path; `-` is not compared), state.unit (the
unit as systemd would start it). Runs behind effective.py.
"""

import hashlib
import json
import os
import shutil
import sys

FOLDERS = ("", "bin", "envs", "etc", "models")
"""Below the prefix: whoever may write there may change what serves."""


def read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None


def write_if_other(path, text, changed, mode=0o644):
    if read(path) == text:
        return
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        os.chmod(file.fileno(), mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{path}.new", path)
    changed.append(path)


def sums(prefix, request):
    environment = os.path.join(prefix, "envs", request["digest"])
    paths = [
        os.path.join(environment, name)
        for name in (".complete", "lock.txt", "stack.json", "manifest.txt", "pyvenv.cfg", "bin/vllm")
    ]
    paths += hooks(environment)[0]  # noqa: F821 - of effective.py
    paths += [
        os.path.join(prefix, "bin", name) for name in sorted(os.listdir(os.path.join(prefix, "bin"))) if name != "uv"
    ]
    if request["service"].get("unit"):
        paths.append(request["service"]["unit_path"])
    if request["service"].get("config"):
        paths.append(os.path.join(prefix, "etc", "supervisord.conf"))
    for path in paths:
        if os.path.isfile(path):
            yield f"{sha256(path)}  {path}\n"


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def stats(prefix, request):
    """Lines of state.files: of folders and of what has a sum only who may write, of secrets and of the model everything."""
    environment = os.path.join(prefix, "envs", request["digest"])
    for path in [*(os.path.join(prefix, name).rstrip("/") for name in FOLDERS), environment]:
        yield stat_line(path, times=False)
    for path in (request["service"].get("unit_path"), os.path.join(prefix, "etc", "supervisord.conf")):
        if path and os.path.exists(path):
            yield stat_line(path, times=False)
    paths = [os.path.join(prefix, "etc", "service.env")]
    paths += [os.path.join(environment, name) for name in ("service.json", "manifest.txt")]
    model = (request["state"].get("readiness") or {}).get("model_folder")
    if model and os.path.isdir(model):
        paths.append(f"{model}.manifest.txt")
        for folder, names, files in os.walk(model):
            names.sort()
            # The reference answer is computed next to the model, after this.
            paths += [os.path.join(folder, name) for name in sorted(files) if not name.startswith("reference-")]
    for path in paths:
        if os.path.lexists(path) and "\n" not in path:
            yield stat_line(path, times=True)


def stat_line(path, *, times):
    found = os.lstat(path)
    written = f"{found.st_size} {int(found.st_mtime)} {int(found.st_ctime)}" if times else "- - -"
    return f"{found.st_mode & 0o7777:o} {found.st_uid} {found.st_gid} {written} {path}\n"


def unit_lines(request):
    """Lines of state.unit; none where no systemd has the service."""
    supervisor = request["service"]["supervisor"]
    if supervisor not in ("systemd", "systemd-user"):
        return []
    scope = "user" if supervisor == "systemd-user" else "system"
    service = {"name": request["service"]["name"], "scope": scope, "uid": os.geteuid()}
    return effective(service)  # noqa: F821 - of effective.py


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
    environment = os.path.join(prefix, "etc", "service.env")
    started = f"{request['service']['digest']} {request['digest']} {sha256(environment)}\n"
    write_if_other(os.path.join(prefix, "etc", "started"), started, changed, mode=0o600)
    write_if_other(os.path.join(prefix, "state.sha256"), "".join(sums(prefix, request)), changed)
    prune(prefix, request, changed)
    prune_units(prefix, request, changed)
    unit = os.path.join(prefix, "state.unit")
    lines = unit_lines(request)
    if lines:
        write_if_other(unit, "".join(f"{line}\n" for line in lines), changed)
    elif os.path.exists(unit):
        remove(unit, changed)
    # After everything else: pruning changes folders.
    write_if_other(os.path.join(prefix, "state.files"), "".join(stats(prefix, request)), changed)
    write_if_other(
        os.path.join(prefix, "state.json"), json.dumps(request["state"], indent=1, sort_keys=True) + "\n", changed
    )
    print(json.dumps({"changed": changed}))


main()
