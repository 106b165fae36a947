"""The package manager of a repository. Runs on any Python from 3.8 on."""

from __future__ import annotations

from ansible.module_utils.firstlight_apt import Apt
from ansible.module_utils.firstlight_dnf import Dnf


def manager_of(wanted):
    """Return the package manager of a repository, given a module's arguments."""
    return {"apt": Apt, "dnf": Dnf}[wanted["repository"]["manager"]](wanted)
