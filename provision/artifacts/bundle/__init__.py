"""A bundle: everything of a stage in one signed file, for networks that have no index at all."""

from provision.artifacts.bundle.bundled import Bundled
from provision.artifacts.bundle.hold import NotingStore, sealed
from provision.artifacts.bundle.manifest import Manifest
from provision.artifacts.bundle.opening import Opened, open_bundle
from provision.artifacts.bundle.writing import Contents, write_bundle

__all__ = ["Bundled", "Contents", "Manifest", "NotingStore", "Opened", "open_bundle", "sealed", "write_bundle"]
