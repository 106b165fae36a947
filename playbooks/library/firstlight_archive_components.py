#!/usr/bin/python
"""Ansible module: further components of the distribution's own archive."""

from __future__ import annotations

import re

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.firstlight_host import diff_result, read, run, text_diff, write
from ansible.module_utils.firstlight_sources import address, fields_of, stanzas_of

ARGUMENTS = {
    "origin": {"type": "str", "required": True},
    "components": {"type": "list", "elements": "str", "required": True},
    "path": {"type": "path", "required": True},
}
FORM = "$(ORIGIN)\t$(REPO_URI)\t$(RELEASE)\t$(COMPONENT)\t$(SOURCESENTRY)"


def key_of(entry, uri, suite):
    """Return the key of an entry. apt 2.6 does not report it, and refuses two entries for one address with different keys."""
    path, _colon, line = entry.rpartition(":")
    text = read(path) or ""
    if not path.endswith(".sources"):
        found = re.search(r"signed-by=([^\s\]]+)", text.splitlines()[int(line) - 1])
        return found.group(1) if found else ""
    for stanza in stanzas_of(re.sub(r"(?m)^#.*\n", "", text)):
        fields = fields_of(stanza)
        addresses = [address(word) for word in fields.get("uris", "").split()]
        if address(uri) in addresses and suite in fields.get("suites", "").split():
            return fields.get("signed-by", "")
    return ""


def entries(origin, own):
    """Return the components by address, suite and key of the distribution's archive, without our own entry."""
    components, keys = {}, {}
    for line in run("apt-get", "indextargets", "--format", FORM, "Created-By: Packages")[1].splitlines():
        found, uri, suite, component, entry = line.split("\t")
        if found == origin and not entry.startswith(own + ":"):
            components.setdefault((uri, suite), set()).add(component)
            keys[uri, suite] = keys.get((uri, suite)) or key_of(entry, uri, suite)
    return {(*place, keys[place]): there for place, there in components.items() if "main" in there}


def wanted_text(found, components):
    """Return the text of our own file, and whether components are missing: where none is, it has only its head."""
    stanzas = []
    for (uri, suite, key), there in sorted(found.items()):
        if missing := [name for name in components if name not in there]:
            signed = f"Signed-By: {key}\n" if key else ""
            text = f"Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: {' '.join(missing)}\n"
            stanzas.append(f"{text}{signed}")
    return "# Written by Firstlight.\n" + "\n".join(stanzas), bool(stanzas)


def main():
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    origin, path = module.params["origin"], module.params["path"]
    found = entries(origin, path)
    if not found and not module.check_mode:
        run("apt-get", "-q", "update")
        found = entries(origin, path)
    if not found and not module.check_mode:
        module.fail_json(
            msg=f"no package source of {origin}'s own archive is named on this host, or none answers",
            hint="name one with its component `main`, as the distribution's installer does, and run the command again",
        )
    before = read(path)
    after, is_missing = wanted_text(found, module.params["components"])
    if not found or after == before or (not is_missing and not before):
        module.exit_json(changed=False, paths=[])
    if not module.check_mode:
        write(path, after)
    module.exit_json(changed=True, paths=[path], **diff_result(module, [text_diff(path, before, after)]))


if __name__ == "__main__":
    main()
