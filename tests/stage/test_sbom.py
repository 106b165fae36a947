"""Software bills of materials: valid, the same for the same lock, complete."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest

from provision.core.models.stack import Interpreter
from provision.core.models.staged import Staged, StagedFile
from provision.core.redaction import redact
from provision.phases.stage.programs import LOCK
from provision.phases.stage.sbom import controller_sbom, environment_sbom, write_sbom
from tests.stage.site import make_wheel
from tests.stage.stacks import make_stack

LICENCES = {
    "expression": "License-Expression: MIT OR Apache-2.0\n",
    "classified": "Classifier: License :: OSI Approved\nClassifier: License :: OSI Approved :: BSD License\nLicense: BSD\n",
    "short": "License: Apache-2.0\n",
    "whole-text": f"License: {'You may do what you want with it. ' * 9}\n",
    "secret-token": "",
}


def make_staged(folder: Path) -> Staged:
    """An environment of wheels, each with another statement of its licence, and a managed interpreter."""
    files, lock = [], ""
    for number, (name, field) in enumerate(sorted(LICENCES.items())):
        info = f"{name.replace('-', '_')}-1.0.dist-info"
        file, content = make_wheel(name, more={f"{info}/METADATA": f"Name: {name}\n{field}"})
        sha256, path = f"{number:064x}", folder / file
        path.write_bytes(content)
        files.append(StagedFile(name=file, path=str(path), sha256=sha256, size=1, kind="wheel"))
        lock += f"{name}==1.0+cu128 --hash=sha256:{sha256}\n"
    files.append(StagedFile(name="python.tar.gz", path="", sha256="f" * 64, size=1, kind="interpreter"))
    (folder / "lock.txt").write_text(lock)
    return Staged(
        hosts=("gpu-1",),
        stack=make_stack(None, None),
        lock=str(folder / "lock.txt"),
        lock_digest="0" * 64,
        environment="0123456789abcdef",
        files=tuple(files),
        interpreter=Interpreter(version="3.12.9", origin="managed"),
    )


def components(text: str) -> dict[str, dict[str, Any]]:
    return {component["bom-ref"]: component for component in json.loads(text)["components"]}


def hashes(component: dict[str, Any]) -> set[str]:
    assert {row["alg"] for row in component["hashes"]} == {"SHA-256"}
    return {row["content"] for row in component["hashes"]}


def test_the_documents_are_valid(tmp_path: Path) -> None:
    # Imported here: the package builds dozens of grammars, which would cost every collection a second.
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    validator = JsonStrictValidator(SchemaVersion.V1_6)
    for text in (controller_sbom(LOCK.read_text()), environment_sbom(make_staged(tmp_path))):
        assert validator.validate_str(text) is None
        broken = text.replace('"SHA-256"', '"SHA-257"', 1)
        assert validator.validate_str(broken) is not None


def test_the_controllers_document_has_every_pin_with_all_hashes() -> None:
    lock = LOCK.read_text()
    found = components(controller_sbom(lock))
    pinned = re.split(r"\n(?=[a-z0-9])", lock)
    assert len(found) == len(pinned) == len(re.findall(r"^[a-z0-9._-]+==", lock, re.MULTILINE))
    for block in pinned:
        name = block.split(" ")[0]
        assert hashes(found[name.replace("==", " ")]) == set(re.findall(r"sha256:([0-9a-f]{64})", block)), name


def test_a_marker_of_the_lock_is_in_the_document() -> None:
    lock = "a==1 ; python_full_version < '3.12' \\\n    --hash=sha256:" + "0" * 64 + "\n    # via b\n"
    [component] = components(controller_sbom(lock)).values()
    assert component["properties"] == [{"name": "firstlight:marker", "value": "python_full_version < '3.12'"}]


def test_an_environments_document_has_its_packages_with_licences_and_its_interpreter(tmp_path: Path) -> None:
    staged = make_staged(tmp_path)
    found = components(environment_sbom(staged))
    wheels = {file.sha256 for file in staged.files}
    assert set.union(*map(hashes, found.values())) == wheels
    assert hashes(found["interpreter 3.12.9"]) == {"f" * 64}
    assert {name: component.get("licenses") for name, component in found.items()} == {
        "classified 1.0+cu128": [{"license": {"name": "BSD License"}}],
        "expression 1.0+cu128": [{"expression": "MIT OR Apache-2.0"}],
        "interpreter 3.12.9": None,
        "secret-token 1.0+cu128": None,
        "short 1.0+cu128": [{"license": {"id": "Apache-2.0"}}],
        "whole-text 1.0+cu128": None,
    }
    assert found["short 1.0+cu128"]["purl"] == "pkg:pypi/short@1.0%2Bcu128?file_name=short-1.0-py3-none-any.whl"


def test_the_same_lock_gives_the_same_bytes_and_another_one_another_serial_number(tmp_path: Path) -> None:
    staged = make_staged(tmp_path)
    text = environment_sbom(staged)
    assert environment_sbom(staged) == text
    Path(staged.lock).write_text("a==2 --hash=sha256:" + "0" * 64 + "\n")
    assert json.loads(environment_sbom(staged))["serialNumber"] != json.loads(text)["serialNumber"]


def test_a_missing_wheel_leaves_its_hash_and_no_licence(tmp_path: Path) -> None:
    staged = make_staged(tmp_path)
    for file in staged.files:
        if file.path:
            Path(file.path).unlink()
    found = components(environment_sbom(staged))
    assert not any("licenses" in component for component in found.values())
    assert len(set.union(*map(hashes, found.values()))) == len(staged.files)


def test_metadata_that_unpack_to_much_more_than_a_licence_needs_are_not_read_whole(tmp_path: Path) -> None:
    staged = make_staged(tmp_path)
    [wheel] = [file for file in staged.files if file.name.startswith("short")]
    with zipfile.ZipFile(wheel.path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("short-1.0.dist-info/METADATA", "X: " + "x" * (4 << 20) + "\nLicense: MIT\n")
    assert "licenses" not in components(environment_sbom(staged))["short 1.0+cu128"]


@pytest.mark.parametrize("name", ["secret-token", "password", "api-key", "auth-token"])
def test_a_package_that_is_named_like_a_secret_stays_readable(tmp_path: Path, name: str) -> None:
    lock = f"{name}==1.0 --hash=sha256:{'ab' * 32}\n"
    text = controller_sbom(lock)
    assert json.loads(redact(text)) == json.loads(text)


def test_a_document_is_named_by_its_environment(tmp_path: Path) -> None:
    path = write_sbom(make_staged(tmp_path), tmp_path / "sbom")
    assert path == tmp_path / "sbom/0123456789abcdef.cdx.json"
    assert path.stat().st_mode & 0o777 == 0o644
