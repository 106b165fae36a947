"""Documentation that the modules for packages of one repository share."""

from __future__ import annotations


class ModuleDocFragment:
    """The options that both modules have."""

    DOCUMENTATION = r"""
options:
  packages:
    description: Packages; names that a package may have are separated by C(|), and the first that is available is taken.
    type: list
    elements: str
    required: true
  version:
    description: Version that the packages of the family must have. Without it any version will do.
    type: str
  family:
    description: The packages that share the driver's version.
    type: dict
    suboptions:
      packages:
        description: Patterns of their names.
        type: list
        elements: str
        required: true
      version:
        description: Regular expression of a version of the family.
        type: str
        required: true
      apart:
        description: Patterns of packages that match, and have versions of another kind.
        type: list
        elements: str
        default: []
  oldest:
    description: Lowest versions of packages, without epoch and revision; older ones are upgraded.
    type: dict
    default: {}
  repository:
    description: The repository, with C(manager) (C(apt) or C(dnf)), C(name), C(origin), and C(uri), which is empty for the distribution's own.
    type: dict
    required: true
  lock_timeout_s:
    description: Seconds to wait for another package manager to finish.
    type: int
    default: 600
"""
