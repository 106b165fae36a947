"""Moves a model's files from the incoming folder into its own, each hash checked; says what was moved, as JSON.

take_files.py look|take INCOMING FOLDER, with [{"name", "sha256", "size"}] on standard input. A record of what was checked and how
it looked then (.complete) spares reading hundreds of gigabytes again when nothing changed; a file that looks otherwise is read again.
FOLDER.manifest.txt lists the files next to the folder: CRC-32, size in bytes, path below it.
"""

import hashlib
import json
import os
import shutil
import sys
import zlib

MARKER = ".complete"


def fail(text, hint):
    print(f"firstlight-error: {text}", file=sys.stderr)
    print(f"firstlight-hint: {hint}", file=sys.stderr)
    sys.exit(1)


def digests(path):
    """SHA-256 and CRC-32 of a file, in one reading."""
    sha256, crc = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            sha256.update(chunk)
            crc = zlib.crc32(chunk, crc)
    return sha256.hexdigest(), f"{crc:08x}"


def mark_of(path):
    """How a file looks: size, times of content and inode, inode. None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def checked_before(folder):
    try:
        with open(os.path.join(folder, MARKER), encoding="utf-8") as file:
            known = json.load(file)
    except (OSError, ValueError):
        return {}
    return {name: entry for name, entry in known.items() if isinstance(entry, dict)}


def is_there(file, incoming, folder, checked):
    """Whether a file lies in the folder as it was checked, and no newer one was sent."""
    entry = checked.get(file["name"], {})
    mark = mark_of(os.path.join(folder, file["name"]))
    sent = os.path.exists(os.path.join(incoming, file["name"]))
    return not sent and mark is not None and entry.get("mark") == mark and entry["sha256"] == file["sha256"]


def take(file, incoming, folder):
    """Have a file whole in the folder: the entry of the record, and whether it was not there before."""
    source, target = os.path.join(incoming, file["name"]), os.path.join(folder, file["name"])
    part = target + ".part"
    if os.path.exists(source):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.move(source, part)
    elif not os.path.exists(part):
        found, crc = digests(target) if os.path.exists(target) else (None, None)
        if found == file["sha256"]:
            return {"sha256": found, "crc32": crc, "mark": mark_of(target)}, False
        forget_state(folder)
        text = f"is not in {incoming}" if found is None else f"is damaged: it has SHA-256 {found}, not {file['sha256']}"
        fail(f"model file {file['name']} {text}", "run ./firstlight provision: it sends what is missing")
    found, crc = digests(part)
    if found != file["sha256"]:
        os.unlink(part)
        fail(
            f"model file {file['name']} has SHA-256 {found}, not {file['sha256']}",
            "run ./firstlight provision: the file is sent anew",
        )
    os.chmod(part, 0o644)
    os.replace(part, target)
    return {"sha256": found, "crc32": crc, "mark": mark_of(target)}, True


def remove_others(folder, files):
    """Remove what lies in the folder and belongs to no file of the model: an engine reads some files where they are there."""
    kept = {MARKER, *(file["name"] for file in files), *(f"{file['name']}.part" for file in files)}
    removed = []
    for parent, _, names in os.walk(folder):
        for path in (os.path.join(parent, name) for name in names):
            if os.path.relpath(path, folder) not in kept:
                os.unlink(path)
                removed.append(os.path.relpath(path, folder))
    return removed


def forget_state(folder):
    """The host is no longer in the state that it reached: by that the next run knows that it has to send the model."""
    state = os.path.join(os.path.dirname(os.path.dirname(folder)), "state.json")
    if os.path.exists(state):
        os.unlink(state)


def write(path, text):
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(f"{path}.new", path)


def main():
    mode, incoming, folder = sys.argv[1:]
    files = json.load(sys.stdin)
    checked = checked_before(folder)
    missing = [file for file in files if not is_there(file, incoming, folder, checked)]
    changed = [file["name"] for file in missing]
    if mode == "take":
        changed = []
        for file in missing:
            checked[file["name"]], is_new = take(file, incoming, folder)
            changed += [file["name"]] if is_new else []
            write(os.path.join(folder, MARKER), json.dumps(checked))
        changed += remove_others(folder, files)
        names = sorted(file["name"] for file in files)
        write(
            f"{folder}.manifest.txt",
            "".join(f"{checked[name]['crc32']} {checked[name]['mark'][0]} {name}\n" for name in names),
        )
    print(json.dumps({"changed": changed}))


main()
