"""Turns off other entries for the repository that this role is about to name: apt refuses one address with two keys.

Standard input: {"uri", "ours": file name of our own entry}. The argument `look` says what would be done, `make` does it.
A line of a .list file becomes a comment, a stanza of a .sources file gets `Enabled: no`; nothing is deleted.
"""

import json
import os
import re
import sys

FOLDER = "/etc/apt/sources.list.d"
NOTE = "# by Firstlight, which names this repository in "


def address(uri):
    return re.sub(r"^[a-z+]+:/*", "", uri).rstrip("/").lower()


def one_line(text, uri, ours):
    """A .list file's text with the entries for `uri` as comments."""
    lines = []
    for line in text.splitlines():
        found = re.match(r"\s*deb(?:-src)?\s+(?:\[[^\]]*\]\s+)?(\S+)", line)
        lines.append(f"{NOTE}{ours}: {line.strip()}" if found and address(found.group(1)) == uri else line)
    return "\n".join(lines) + "\n" if lines else ""


def deb822(text, uri):
    """A .sources file's text with the stanzas for `uri` turned off."""
    stanzas = []
    for stanza in re.split(r"\n[ \t]*\n", text.strip("\n")):
        fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", stanza, re.MULTILINE))
        values = {name.lower(): value.strip() for name, value in fields.items()}
        addresses = [address(word) for word in values.get("uris", "").split()]
        if uri in addresses and values.get("enabled", "yes").lower() not in ("no", "false", "off", "0"):
            stanzas.append(re.sub(r"(?im)^enabled:.*\n?", "", stanza).rstrip("\n") + "\nEnabled: no")
        else:
            stanzas.append(stanza)
    return "\n\n".join(stanzas) + "\n"


def main():
    wanted = json.load(sys.stdin)
    uri = address(wanted["uri"])
    paths = ["/etc/apt/sources.list"]
    if os.path.isdir(FOLDER):
        paths += sorted(os.path.join(FOLDER, name) for name in os.listdir(FOLDER) if name != wanted["ours"])
    for path in paths:
        if not path.endswith((".list", ".sources")) or not os.path.isfile(path):
            continue
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
        new = one_line(text, uri, wanted["ours"]) if path.endswith(".list") else deb822(text, uri)
        if new.split() == text.split():
            continue
        print(f"firstlight-changed: source {path} turned off")
        if sys.argv[1] == "make":
            with open(path + ".new", "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(new)
            os.chmod(path + ".new", 0o644)
            os.replace(path + ".new", path)


main()
