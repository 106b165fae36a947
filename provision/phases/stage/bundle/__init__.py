"""Bundles: all files of the stage phase in one signed archive, for networks without an index."""

from provision.phases.stage.bundle.bundled import Bundled
from provision.phases.stage.bundle.manifest import Manifest
from provision.phases.stage.bundle.reader import OpenedBundle, open_bundle
from provision.phases.stage.bundle.recording_store import RecordingStore, sealed
from provision.phases.stage.bundle.writer import BundleContents, write_bundle

__all__ = [
    "BundleContents",
    "Bundled",
    "Manifest",
    "OpenedBundle",
    "RecordingStore",
    "open_bundle",
    "sealed",
    "write_bundle",
]
