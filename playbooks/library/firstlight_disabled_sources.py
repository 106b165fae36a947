#!/usr/bin/python
"""Ansible module: other entries for a repository, disabled."""

from __future__ import annotations

import glob
import os
import re

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.firstlight_host import diff_result, read, text_diff, write
from ansible.module_utils.firstlight_package_manager import address

ARGUMENTS = {
    "manager": {"type": "str", "choices": ["apt", "dnf"], "required": True},
    "uri": {"type": "str", "required": True},
    "own": {"type": "str", "required": True},
}
SOURCES = {
    "apt": ("/etc/apt/sources.list", "/etc/apt/sources.list.d/*.list", "/etc/apt/sources.list.d/*.sources"),
    "dnf": ("/etc/yum.repos.d/*.repo",),
}
VARIABLES = {"$basearch": os.uname().machine, "$releasever": "9"}
"""In addresses of dnf; drivers are planned for this release of Enterprise Linux."""
NOTE = "# by Firstlight, which names this repository in "
"""By it `uninstall --drivers` finds what it enables again."""


def stanzas_of(text):
    """Return the stanzas of a .sources file, each with the blank lines before it."""
    return re.split(r"(?m)^(?=[ \t]*$)", text)


def fields_of(entry):
    """Return the fields of a stanza, or of a section of a .repo file, by name in lower case; indented lines continue a value."""
    found = re.findall(r"^([\w-]+)[ \t]*[:=][ \t]*(.*(?:\n[ \t]+\S.*)*)$", entry, re.MULTILINE)
    return {name.lower(): value.rstrip() for name, value in found}


def disabled_line(line, uri, own):
    """Return a line of a .list file, as a comment where it names `uri`."""
    found = re.match(r"\s*deb(?:-src)?\s+(?:\[[^\]]*\]\s+)?(\S+)", line)
    is_ours = found and address(found.group(1)).lower() == uri
    return f"{NOTE}{own}: {line.lstrip()}" if is_ours else line


def disabled_entry(entry, uri, field, off):
    """Return a stanza or section, with the lines `off` where its field of addresses names `uri`."""
    fields = fields_of(entry)
    addresses = fields.get(field, "")
    for name, value in VARIABLES.items():
        addresses = addresses.replace(name, value)
    if fields.get("enabled", "yes").lower() in ("no", "false", "off", "0"):
        return entry
    if uri not in [address(word).lower() for word in addresses.split()]:
        return entry
    kept = re.sub(r"(?im)^enabled[ \t]*[:=].*\n?", "", entry)
    body = kept.rstrip("\n")
    return f"{body}\n{off}\n{kept[len(body) + 1 :]}"


def disabled(path, text, uri, own):
    """Return the text of a file with the entries for `uri` disabled."""
    if path.endswith(".repo"):
        sections = re.split(r"(?m)^(?=\[)", text)
        return "".join(disabled_entry(section, uri, "baseurl", f"{NOTE}{own}\nenabled=0") for section in sections)
    if path.endswith(".sources"):
        return "".join(disabled_entry(stanza, uri, "uris", f"{NOTE}{own}\nEnabled: no") for stanza in stanzas_of(text))
    return "".join(disabled_line(line, uri, own) for line in text.splitlines(keepends=True))


def main():
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    uri, own = address(module.params["uri"]).lower(), module.params["own"]
    found = sorted(path for pattern in SOURCES[module.params["manager"]] for path in glob.glob(pattern))
    paths, diff = [], []
    for path in found:
        before = read(path)
        after = before if os.path.basename(path) == own else disabled(path, before, uri, own)
        if after == before:
            continue
        paths.append(path)
        diff.append(text_diff(path, before, after))
        if not module.check_mode:
            write(path, after)
    module.exit_json(changed=bool(paths), paths=paths, **diff_result(module, diff))


if __name__ == "__main__":
    main()
