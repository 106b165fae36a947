"""Entries of package repositories, in files of the kinds that apt and dnf read. Runs on any Python from 3.8 on."""

from __future__ import annotations

import re


def address(uri):
    """Return an address without its scheme, since apt spells schemes differently: file:///srv is file:/srv."""
    return re.sub("^[a-z+]+:/*", "", uri).rstrip("/")


def stanzas_of(text):
    """Return the stanzas of a .sources file, each with the blank lines before it."""
    return re.split(r"(?m)^(?=[ \t]*$)", text)


def fields_of(entry):
    """Return the fields of a stanza, or of a section of a .repo file, by name in lower case; indented lines continue a value."""
    found = re.findall(r"^([\w-]+)[ \t]*[:=][ \t]*(.*(?:\n[ \t]+\S.*)*)$", entry, re.MULTILINE)
    return {name.lower(): value.rstrip() for name, value in found}
