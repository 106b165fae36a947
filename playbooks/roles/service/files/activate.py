"""Puts an environment and the service that belongs to it live, together; says what changed, as JSON.

    activate.py look|live PREFIX        request on standard input: {"digest", "service", "state"}
    activate.py look-back|back PREFIX   the request of the environment that `previous` points at
    activate.py describe PREFIX         what serves now

The request is kept beside its environment (envs/DIGEST/service.json, 0600), so that a rollback brings back the unit
and the settings that belong to it. The API key is made here, kept in service.env (0600), and shown nowhere.
What overrides the unit from elsewhere, and what Python would run unasked, is moved to PREFIX/etc/set-aside, below the path that it had. Runs behind effective.py.
"""

import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import sys

KEY = "VLLM_API_KEY"
PLAIN = re.compile(r"^[A-Za-z0-9_@%+=:,./-]*$")


def fail(text, hint):
    print(f"firstlight-error: {text}", file=sys.stderr)
    print(f"firstlight-hint: {hint}", file=sys.stderr)
    sys.exit(1)


def read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


def write(path, text, mode):
    """Whole or not at all, and never readable by others for a moment when it must not be."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.new"
    if os.path.lexists(temporary):
        os.unlink(temporary)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(temporary, mode)
    os.replace(temporary, path)


def link(path, target):
    temporary = f"{path}.new"
    if os.path.lexists(temporary):
        os.unlink(temporary)
    os.symlink(target, temporary)
    os.replace(temporary, path)


def linked(prefix, name):
    try:
        return os.path.basename(os.readlink(os.path.join(prefix, name)))
    except OSError:
        return None


def is_complete(prefix, digest):
    return digest is not None and os.path.exists(os.path.join(prefix, "envs", digest, ".complete"))


def request_of(prefix, digest):
    text = read(os.path.join(prefix, "envs", digest or "-", "service.json"))
    return json.loads(text) if text else None


def kept_key(text):
    found = re.search(rf"^{KEY}=(\S+)$", text or "", re.MULTILINE)
    return found.group(1) if found else None


def assignment(name, value):
    """A line that systemd's EnvironmentFile and a POSIX shell read alike."""
    if "\n" in value:
        fail(f"environment variable {name} holds a line break", "set firstlight_env without it")
    if PLAIN.match(value):
        return f"{name}={value}\n"
    return f'{name}="' + re.sub(r'(["\\$`])', r"\\\1", value) + '"\n'


def environment_text(service, before):
    lines = [assignment(name, str(value)) for name, value in sorted((service.get("environment") or {}).items())]
    if service["api_key"]:
        lines.append(f"{KEY}={kept_key(before) or secrets.token_urlsafe(32)}\n")
    return "".join(lines)


def foreign(prefix, request):
    """Paths of what nobody installed and that decides what starts."""
    environment = os.path.join(prefix, "envs", request["digest"])
    return overrides(request["service"]) + hooks(environment)[1]  # noqa: F821 - of effective.py


def overrides(service):
    """Paths of drop-ins for this unit alone, and of unit files that come before ours."""
    home = os.path.expanduser("~")
    if service["supervisor"] == "systemd":
        first = ["/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/transient"]
        folders = [
            *first,
            "/etc/systemd/system",
            "/run/systemd/system",
            "/usr/local/lib/systemd/system",
            "/usr/lib/systemd/system",
        ]
    elif service["supervisor"] == "systemd-user":
        run = f"/run/user/{os.geteuid()}/systemd"
        first = [f"{home}/.config/systemd/user.control", f"{run}/user.control", f"{run}/transient"]
        folders = [*first, f"{home}/.config/systemd/user", f"{run}/user", f"{home}/.local/share/systemd/user"]
    else:
        return []
    found = [path for folder in folders for path in sorted(glob.glob(f"{folder}/{service['name']}.d/*.conf"))]
    return found + [path for folder in first for path in [f"{folder}/{service['name']}"] if os.path.lexists(path)]


def set_aside(prefix, path):
    """Move a file out of systemd's sight; what was set aside before of the same path stays as well."""
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


def identity(path):
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_uid, found.st_mode & 0o777


def wanted_files(prefix, request):
    """Path, text and mode of every file that belongs to the service."""
    service = request["service"]
    environment = os.path.join(prefix, "etc", "service.env")
    yield environment, environment_text(service, read(environment)), 0o600
    if service.get("unit"):
        yield service["unit_path"], service["unit"], 0o644
    if service.get("config"):
        yield os.path.join(prefix, "etc", "supervisord.conf"), service["config"], 0o644
    kept = os.path.join(prefix, "envs", request["digest"], "service.json")
    yield kept, json.dumps(request, indent=1, sort_keys=True) + "\n", 0o600


def differs(path, text, mode):
    return read(path) != text or identity(path) != (os.geteuid(), mode)


def remember_unit(prefix, path):
    """Uninstall finds the units by this list, also when the installation was cut off."""
    record = os.path.join(prefix, "etc", "units")
    known = (read(record) or "").split()
    if path not in known:
        write(record, "\n".join([*known, path]) + "\n", 0o644)


def put(prefix, request, changed):
    for path in (os.path.join(prefix, "state.json"), os.path.join(prefix, "etc", "started")):
        if os.path.exists(path):
            os.unlink(path)
    if request["service"].get("unit"):
        remember_unit(prefix, request["service"]["unit_path"])
    for path in foreign(prefix, request):
        set_aside(prefix, path)
    for path, text, mode in changed:
        write(path, text, mode)
    live = linked(prefix, "current")
    if live != request["digest"]:
        # One that was built anew, in a folder DIGEST-2, takes the place of a damaged one: nobody goes back to that.
        is_damaged = live is not None and live.partition("-")[0] == request["digest"].partition("-")[0]
        if is_complete(prefix, live) and not is_damaged:
            link(os.path.join(prefix, "previous"), os.path.join("envs", live))
        link(os.path.join(prefix, "current"), os.path.join("envs", request["digest"]))


def describe(prefix, request):
    service = request["service"]
    return {
        "supervisor": service["supervisor"],
        "name": service["name"],
        "scope": "user" if service["supervisor"] == "systemd-user" else "system",
        "uid": os.geteuid(),
    }


def stands(prefix, service):
    """Of a unit that systemd knows: whether it must be started anew, and whether what it said is of an earlier start.

    It must where systemd would start something else than was sealed, or where a signal stopped one of its processes.
    """
    names = "--property=ActiveState,MainPID"
    said = systemctl(service, "show", names, service["name"])  # noqa: F821 - of effective.py
    if said is None:
        fail(
            f"systemd did not say in time how {service['name']} stands",
            "look at it there: systemctl status",
        )
    values = dict(line.split("=", 1) for line in said.splitlines())
    failing = values.get("ActiveState") in ("failed", "activating", "deactivating")
    sealed = (read(os.path.join(prefix, "state.unit")) or "").splitlines()
    # An earlier release may have sealed fewer properties.
    names = {line.partition("=")[0] for line in sealed}
    now = [line for line in effective(service) if line.partition("=")[0] in names]  # noqa: F821 - of effective.py
    other = comparable(sealed) != comparable(now)  # noqa: F821 - of effective.py
    return other or has_stopped(int(values.get("MainPID") or 0)), failing


def has_stopped(main_pid):
    """Whether the process or one below it is stopped by a signal."""
    found = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(path, "rb") as file:
                state, parent = file.read().rpartition(b")")[2].split()[:2]
        except OSError:  # it has ended
            continue
        found[int(path.split("/")[2])] = state, int(parent)
    ours = {main_pid} if main_pid in found else set()
    while below := {pid for pid, (_, parent) in found.items() if parent in ours} - ours:
        ours |= below
    return any(found[pid][0] in (b"T", b"t") for pid in ours)


def start_of(request, environment):
    """What a running service was started from: settings, environment, and variables with the key, which the sum does not tell."""
    return f"{request['service']['digest']} {request['digest']} {hashlib.sha256(environment.encode()).hexdigest()}\n"


def go_live(prefix, request, *, make):
    if make and not is_complete(prefix, request["digest"]):
        fail(f"environment {request['digest']} is not complete in {prefix}/envs", "run ./firstlight provision")
    before = request_of(prefix, linked(prefix, "current"))
    wanted = list(wanted_files(prefix, request))
    changed = [file for file in wanted if differs(*file)]
    names = [path for path, *_ in changed] + foreign(prefix, request)
    if linked(prefix, "current") != request["digest"]:
        names.append(os.path.join(prefix, "current"))
    restart = bool(names) or read(os.path.join(prefix, "etc", "started")) != start_of(request, wanted[0][1])
    now, other, failing = describe(prefix, request), False, False
    if now["supervisor"] in ("systemd", "systemd-user"):
        other, failing = stands(prefix, now)
    elif now["supervisor"] == "supervisor":
        other = has_stopped(int(read(os.path.join(prefix, "run", "supervisord.pid")) or 0))
    names += ["the running service"] if other and not names else []
    restart = restart or other or failing
    if make and names:
        put(prefix, request, changed)
    former = describe(prefix, before) if before else None
    if former == now or (former and former["supervisor"] == "none"):
        former = None
    return {**now, "changed": names, "restart": restart, "failing": failing, "former": former}


def previous_request(prefix):
    digest = linked(prefix, "previous")
    if digest is None:
        fail(f"{prefix}/previous does not exist: there is no earlier environment", "nothing was changed")
    request = request_of(prefix, digest)
    if not is_complete(prefix, digest) or request is None:
        fail(f"the previous environment {digest} is not whole in {prefix}/envs", "run ./firstlight provision")
    return request


def main():
    mode, prefix = sys.argv[1:]
    if mode == "describe":
        request = request_of(prefix, linked(prefix, "current"))
        nothing = {"supervisor": "none", "name": "", "scope": "system", "uid": os.geteuid()}
        answer = describe(prefix, request) if request else nothing
    elif mode in ("look-back", "back"):
        answer = go_live(prefix, previous_request(prefix), make=mode == "back")
    else:
        answer = go_live(prefix, json.load(sys.stdin), make=mode == "live")
    print(json.dumps(answer))


main()
