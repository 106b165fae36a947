"""A bundle: everything of a stage in one signed file, for networks that have no index at all."""

from provision.phases.stage.bundle.bundled import Bundled
from provision.phases.stage.bundle.manifest import Manifest
from provision.phases.stage.bundle.opening import Opened, open_bundle
from provision.phases.stage.bundle.recording_store import RecordingStore, sealed
from provision.phases.stage.bundle.writing import Contents, write_bundle

__all__ = ["Bundled", "Contents", "Manifest", "Opened", "RecordingStore", "open_bundle", "sealed", "write_bundle"]
