#!/usr/bin/python
"""Ansible module: other entries for a repository, disabled."""

from __future__ import annotations

DOCUMENTATION = r"""
module: firstlight_disabled_sources
short_description: Disable all other entries for a package repository
description:
  - Disables the entries for a repository that are not in our own file. apt refuses one address with two keys, and no
    upgrade of the distribution may take a driver from there.
  - A line of a C(.list) file becomes a comment, a stanza of a C(.sources) file gets C(Enabled=no), and a section of a
    C(.repo) file gets C(enabled=0). Nothing is deleted.
options:
  manager:
    description: Package manager whose entries are read.
    type: str
    choices: [apt, dnf]
    required: true
  uri:
    description: Address of the repository.
    type: str
    required: true
  own:
    description: Name of our own file, which is left alone.
    type: str
    required: true
author: Firstlight
"""

EXAMPLES = r"""
- name: Disable other entries for the repository
  firstlight_disabled_sources:
    manager: apt
    uri: file:///srv/mirror
    own: firstlight-nvidia-cuda.sources
"""

RETURN = r"""
paths:
  description: Files in which entries were disabled.
  type: list
  elements: str
  returned: always
"""

import configparser
import os
import re

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.firstlight_files import diff_result, read, text_diff, write

ARGUMENTS = {
    "manager": {"type": "str", "choices": ["apt", "dnf"], "required": True},
    "uri": {"type": "str", "required": True},
    "own": {"type": "str", "required": True},
}
APT_FILE, APT_FOLDER = "/etc/apt/sources.list", "/etc/apt/sources.list.d"
DNF_FOLDER = "/etc/yum.repos.d"
RELEASE = "9"
"""Of Enterprise Linux: the one that drivers are planned for. It stands for $releasever in addresses."""
NOTE = "# by Firstlight, which names this repository in "


def address(uri):
    """Return an address without its scheme."""
    return re.sub(r"^[a-z+]+:/*", "", uri).rstrip("/").lower()


def one_line(text, uri, own):
    """Return the text of a .list file with the entries for `uri` as comments."""
    lines = []
    for line in text.splitlines():
        found = re.match(r"\s*deb(?:-src)?\s+(?:\[[^\]]*\]\s+)?(\S+)", line)
        lines.append(f"{NOTE}{own}: {line.strip()}" if found and address(found.group(1)) == uri else line)
    return "\n".join(lines) + "\n" if lines else ""


def deb822(text, uri):
    """Return the text of a .sources file with the stanzas for `uri` disabled."""
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


def enabled_sections(text, uri):
    """Return the names of the enabled sections for `uri` of a .repo file."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.read_string(text)
    machine, found = os.uname().machine, []
    for name in parser.sections():
        given = parser[name].get("baseurl", "").replace("$basearch", machine).replace("$releasever", RELEASE)
        enabled = parser[name].get("enabled", "1").strip() not in ("0", "false", "no")
        if enabled and uri in [address(word) for word in given.split()]:
            found.append(name)
    return found


def repo(text, uri):
    """Return the text of a .repo file with `enabled=0` in the sections for `uri`."""
    sections, lines, inside = enabled_sections(text, uri), [], False
    if not sections:
        return text
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


def source_files(manager, own):
    """Yield the files that name repositories, without our own."""
    folder = DNF_FOLDER if manager == "dnf" else APT_FOLDER
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    paths = ([] if manager == "dnf" else [APT_FILE]) + [os.path.join(folder, name) for name in names if name != own]
    suffixes = (".repo",) if manager == "dnf" else (".list", ".sources")
    return [path for path in paths if path.endswith(suffixes) and os.path.isfile(path)]


def disabled(path, text, uri, own):
    if path.endswith(".repo"):
        return repo(text, uri)
    return one_line(text, uri, own) if path.endswith(".list") else deb822(text, uri)


def main():
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    uri, own = address(module.params["uri"]), module.params["own"]
    paths, diff = [], []
    for path in source_files(module.params["manager"], own):
        before = read(path)
        after = disabled(path, before, uri, own)
        if after.split() == before.split():
            continue
        paths.append(path)
        diff.append(text_diff(path, before, after))
        if not module.check_mode:
            write(path, after)
    module.exit_json(changed=bool(paths), paths=paths, **diff_result(module, diff))


if __name__ == "__main__":
    main()
