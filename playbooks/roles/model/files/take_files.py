"""Moves a model's files from the incoming folder into its own, each hash checked; says what was moved, as JSON.

take_files.py look|take INCOMING FOLDER, with [{"name", "sha256", "size"}] on standard input. A record of the hashes
that were checked (.complete) spares reading hundreds of gigabytes again when nothing changed.
"""

import hashlib
import json
import os
import shutil
import sys

MARKER = ".complete"


def fail(text, hint):
    print(f"firstlight-error: {text}", file=sys.stderr)
    print(f"firstlight-hint: {hint}", file=sys.stderr)
    sys.exit(1)


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def checked_before(folder):
    try:
        with open(os.path.join(folder, MARKER), encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return {}


def is_there(path, file, checked):
    try:
        return os.path.getsize(path) == file["size"] and checked.get(file["name"]) == file["sha256"]
    except OSError:
        return False


def take(file, incoming, folder):
    source, target = os.path.join(incoming, file["name"]), os.path.join(folder, file["name"])
    part = target + ".part"
    if os.path.exists(source):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.move(source, part)
    elif not os.path.exists(part):
        if os.path.exists(target) and sha256(target) == file["sha256"]:
            return
        fail(f"model file {file['name']} is not in {incoming}", "run ./firstlight provision: it sends what is missing")
    found = sha256(part)
    if found != file["sha256"]:
        os.unlink(part)
        fail(
            f"model file {file['name']} has SHA-256 {found}, not {file['sha256']}",
            "run ./firstlight provision: the file is sent anew",
        )
    os.chmod(part, 0o644)
    os.replace(part, target)


def record(folder, checked):
    temporary = os.path.join(folder, MARKER + ".new")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(checked, file)
    os.replace(temporary, os.path.join(folder, MARKER))


def main():
    mode, incoming, folder = sys.argv[1:]
    files = json.load(sys.stdin)
    checked = checked_before(folder)
    missing = [file for file in files if not is_there(os.path.join(folder, file["name"]), file, checked)]
    if mode == "take":
        for file in missing:
            take(file, incoming, folder)
            checked[file["name"]] = file["sha256"]
            record(folder, checked)
    print(json.dumps({"changed": [file["name"] for file in missing]}))


main()
