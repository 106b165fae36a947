"""Software bills of materials (SBOM) in CycloneDX's JSON, made by cyclonedx-python-lib: of an environment, and of the controller.

The same lock gives the same bytes: the serial number is derived from the content, and there is no time of creation.
"""

import json
import zipfile
from pathlib import Path
from uuid import UUID, uuid5

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from provision import __version__
from provision.core.files import write_atomically
from provision.core.models.staged import Staged, StagedFile
from provision.core.requirements_file import LockedPackage, read_lock
from provision.phases.stage.extension import read_metadata

FOLDER = "sbom"
"""Folder of the documents in a run's folder and in a bundle."""
_NAMESPACE = UUID("6f3c1f0e-5d0a-5c1b-9f43-2a1f0b7c9d11")
_LONGEST_NAME = 100
"""Characters of a licence's name; longer fields are the text of the licence."""


def controller_sbom(lock: str) -> str:
    """Return the document of the controller's own environment, from the text of requirements/run.txt.

    A package with several wheels has the hashes of all. Licences are not in a lock, and therefore not in this document.
    """
    return _document("firstlight", __version__, [_python_package(package) for package in read_lock(lock)], lock)


def environment_sbom(staged: Staged) -> str:
    """Return the document of an environment of hosts: the packages of its lock, and its interpreter. Raises OSError.

    Licences and file names are those of the wheels; a package whose wheel is not on this machine has none.
    """
    lock = Path(staged.lock).read_text(encoding="utf-8")
    wheels = {file.sha256: file for file in staged.files if file.kind == "wheel"}
    components = [
        _python_package(package, next((wheels[value] for value in package.hashes if value in wheels), None))
        for package in read_lock(lock)
    ]
    interpreter = staged.interpreter or staged.stack.interpreter
    # Its hash is that of the file that is sent to hosts; where the host's own is used, it has none.
    archives = [file.sha256 for file in staged.files if file.kind == "interpreter"]
    components.append(
        Component(
            name="python",
            version=interpreter.version,
            type=ComponentType.PLATFORM,
            bom_ref=f"interpreter {interpreter.version}",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256) for sha256 in archives],
        )
    )
    return _document("firstlight-environment", staged.environment, components, lock)


def write_sbom(staged: Staged, folder: Path) -> Path:
    """Write the document of an environment to a folder; its name is that of the environment.

    Raises OSError where a file cannot be read or written.
    """
    path = folder / f"{staged.environment}.cdx.json"
    write_atomically(path, environment_sbom(staged), durable=False)
    return path


def _python_package(package: LockedPackage, wheel: StagedFile | None = None) -> Component:
    address = PackageURL("pypi", None, package.name, package.version, {"file_name": wheel.name} if wheel else None)
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        bom_ref=f"{package.name} {package.version}",
        purl=address,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=value) for value in package.hashes],
        licenses=_licences(Path(wheel.path)) if wheel else (),
        properties=[Property(name="firstlight:marker", value=package.marker)] if package.marker else (),
    )


def _document(name: str, version: str, components: list[Component], lock: str) -> str:
    root = Component(name=name, version=version, type=ComponentType.APPLICATION, bom_ref=f"{name} {version}")
    bom = Bom(
        metadata=BomMetaData(component=root),
        components=components,
        serial_number=uuid5(_NAMESPACE, f"{name} {version}\n{lock}"),
    )
    bom.register_dependency(root, components)
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    # The library always states a time. A time that is not that of the content would change the bytes of an equal lock.
    del document["metadata"]["timestamp"]
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _licences(wheel: Path) -> list[License]:
    """Return the licence of a wheel: an SPDX expression, else classifiers, else a short name; none of a pruned one."""
    factory = LicenseFactory()
    try:
        with zipfile.ZipFile(wheel) as archive:
            metadata = read_metadata(archive)
    except (OSError, zipfile.BadZipFile, StopIteration):
        return []
    if expression := metadata.get("License-Expression"):
        return [factory.make_from_string(expression)]
    classified = [
        value.rpartition(" :: ")[2]
        for value in metadata.get_all("Classifier") or ()
        if value.startswith("License :: ") and value.count(" :: ") > 1
    ]
    if classified:
        return [factory.make_with_name(value) for value in sorted(set(classified))]
    named = (metadata.get("License") or "").strip()
    if named and named != "UNKNOWN" and "\n" not in named and len(named) <= _LONGEST_NAME:
        return [factory.make_from_string(named)]
    return []
