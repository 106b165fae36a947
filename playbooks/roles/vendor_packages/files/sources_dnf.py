"""Turns off other entries for the repository that this role is about to name, so that no upgrade takes a driver from there.

Standard input: {"uri", "ours": file name of our own entry}. The argument `look` says what would be done, `make` does it.
"""

import configparser
import json
import os
import re
import sys

FOLDER = "/etc/yum.repos.d"


def address(uri):
    return re.sub(r"^[a-z+]+:/*", "", uri).rstrip("/").lower()


def sections_to_turn_off(text, uri):
    """Names of the sections for `uri` that are on."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.read_string(text)
    machine, release = os.uname().machine, "9"
    found = []
    for name in parser.sections():
        given = parser[name].get("baseurl", "").replace("$basearch", machine).replace("$releasever", release)
        if uri in [address(word) for word in given.split()] and parser[name].get("enabled", "1").strip() not in (
            "0",
            "false",
            "no",
        ):
            found.append(name)
    return found


def turned_off(text, sections):
    """The text with `enabled=0` in these sections, all else as it was."""
    lines, inside = [], False
    for line in text.splitlines():
        found = re.match(r"\[(.+)\]\s*$", line)
        if found:
            inside = found.group(1) in sections
            lines.append(line)
            if inside:
                lines.append("enabled=0")
        elif not (inside and re.match(r"enabled\s*=", line)):
            lines.append(line)
    return "\n".join(lines) + "\n"


def main():
    wanted = json.load(sys.stdin)
    for name in sorted(os.listdir(FOLDER)) if os.path.isdir(FOLDER) else ():
        path = os.path.join(FOLDER, name)
        if not name.endswith(".repo") or name == wanted["ours"]:
            continue
        with open(path, encoding="utf-8") as file:
            text = file.read()
        sections = sections_to_turn_off(text, address(wanted["uri"]))
        if sections:
            print(f"firstlight-changed: source {path} turned off")
            if sys.argv[1] == "make":
                with open(path + ".new", "w", encoding="utf-8") as file:
                    file.write(turned_off(text, sections))
                os.chmod(path + ".new", 0o644)
                os.replace(path + ".new", path)


main()
