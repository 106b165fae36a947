"""Opens parts of the distribution's own archive (non-free, restricted) beside what the host's entries name of it.

Standard input: {"origin": what the archive's Release files name themselves, "components": [name], "ours": path of our own entry}.
The argument `look` says what would be done, `make` does it. Address, suite and key are those of the entries that name `main`.
"""

import json
import os
import re
import subprocess
import sys

FORM = "$(ORIGIN)\t$(REPO_URI)\t$(RELEASE)\t$(COMPONENT)\t$(SOURCESENTRY)"


def run(*words):
    settings = dict(os.environ, LC_ALL="C")
    return subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=settings, check=False
    ).stdout


def address(uri):
    return re.sub(r"^[a-z+]+:/*", "", uri).rstrip("/").lower()


def key_of(entry, uri, suite):
    """What an entry says of its key: apt 2.6 does not tell it, and refuses two entries for one address that differ in it."""
    path, _, line = entry.rpartition(":")
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        text = file.read()
    if not path.endswith(".sources"):
        found = re.search(r"signed-by=([^\s\]]+)", text.splitlines()[int(line) - 1])
        return found.group(1) if found else ""
    for paragraph in re.split(r"\n[ \t]*\n", re.sub(r"(?m)^#.*\n", "", text)):
        fields = {
            name.lower(): value for name, value in re.findall(r"(?m)^([A-Za-z-]+):[ \t]*((?:.|\n[ \t])*)$", paragraph)
        }
        addresses = [address(word) for word in fields.get("uris", "").split()]
        if address(uri) in addresses and suite in fields.get("suites", "").split():
            return fields.get("signed-by", "").rstrip()
    return ""


def entries(wanted):
    """Components and key by address and suite, of the distribution's archive; our own entry left out."""
    components, keys = {}, {}
    for line in run("apt-get", "indextargets", "--format", FORM, "Created-By: Packages").splitlines():
        origin, uri, suite, component, entry = line.split("\t")
        if origin == wanted["origin"] and not entry.startswith(wanted["ours"] + ":"):
            components.setdefault((uri, suite), set()).add(component)
            keys[uri, suite] = keys.get((uri, suite)) or key_of(entry, uri, suite)
    return {(*place, keys[place]): there for place, there in components.items() if "main" in there}


def stanza(place, missing):
    uri, suite, key = place
    signed = f"Signed-By: {key}\n" if key else ""
    return f"Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: {' '.join(missing)}\n{signed}"


def main():
    wanted = json.load(sys.stdin)
    found = entries(wanted)
    if not found and sys.argv[1] == "make":
        run("apt-get", "-q", "update")
        found = entries(wanted)
    if not found:
        if sys.argv[1] == "make":
            print(
                f"firstlight-error: no package source of {wanted['origin']}'s own archive is named on this host, or none answers"
            )
            print(
                "firstlight-hint: name one with its component `main`, as the distribution's installer does, and run the command again"
            )
            sys.exit(1)
        return
    missing = {place: [name for name in wanted["components"] if name not in there] for place, there in found.items()}
    stanzas = [stanza(place, names) for place, names in sorted(missing.items()) if names]
    text = "# Written by Firstlight.\n" + "\n".join(stanzas)
    before = ""
    if os.path.exists(wanted["ours"]):
        with open(wanted["ours"], encoding="utf-8") as file:
            before = file.read()
    if text == before or (not stanzas and not before):
        return
    print(f"firstlight-changed: components {' '.join(wanted['components'])} opened in {wanted['ours']}")
    if sys.argv[1] == "make":
        with open(wanted["ours"] + ".new", "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(wanted["ours"] + ".new", 0o644)
        os.replace(wanted["ours"] + ".new", wanted["ours"])


main()
