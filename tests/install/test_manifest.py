"""An environment has exactly the files of its wheels, whatever their RECORDs contain, and they are listed in a manifest."""

import re
import subprocess
import zipfile
import zlib
from pathlib import Path

import pytest

from tests.install.conftest import Site
from tests.install.test_environment import built, program
from tests.install.wheels import build_wheel

pytestmark = pytest.mark.slow


def with_wrong_record(wheel: Path) -> Path:
    """Return the wheel with a RECORD whose sizes and hashes are wrong for all files, as those of pynvvideocodec 2.0.4 are for two."""
    with zipfile.ZipFile(wheel) as archive:
        content = {name: archive.read(name).decode() for name in archive.namelist()}
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in content.items():
            wrong = re.sub(r",sha256=[^,]+,\d+", ",sha256=" + "A" * 43 + ",7", text)
            archive.writestr(zipfile.ZipInfo(name), wrong if name.endswith("/RECORD") else text)
    return wheel


def manifest(site: Site) -> dict[str, tuple[str, int]]:
    lines = (site.environment / "manifest.txt").read_text().splitlines()
    return {path: (crc, int(size)) for crc, size, path in (line.split(" ", 2) for line in lines)}


def hold(site: Site) -> subprocess.CompletedProcess[str]:
    """Compare the environment with its wheels again."""
    script, lock = program("manifest"), str(site.environment / "lock.txt")
    command = [str(site.environment / "bin/python"), "-I", "-c", script, lock, str(site.incoming)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_files_of_several_wheels_and_wrong_records_are_no_damage(site: Site) -> None:
    """Like build_backend.py of flashinfer-python 0.7.0.post1 and torch-c-dlpack-ext 0.1.5."""
    folder = site.wheels[0].parent
    shared = [
        build_wheel(folder, name, "1.0", {"build_backend.py": f"# of {name}\n", f"{name}/__init__.py": ""})
        for name in ("delta", "epsilon_longer")
    ]
    site.use_wheels([*site.wheels, *shared, with_wrong_record(build_wheel(folder, "gamma", "1.0"))])
    site.send()
    built(site)
    entries = manifest(site)
    (packages,) = (path.relative_to(site.environment) for path in site.environment.glob("lib/python*/site-packages"))
    assert {f"{packages}/{name}" for name in ("build_backend.py", "gamma/__init__.py", "alpha/__init__.py")} <= set(
        entries
    )
    for path, (crc, size) in entries.items():
        file = site.environment / path
        content = str(file.readlink()).encode() if file.is_symlink() else file.read_bytes()
        assert (f"{zlib.crc32(content):08x}", len(content)) == (crc, size), path


def test_the_manifest_has_every_file_except_byte_code(site: Site) -> None:
    folder = site.wheels[0].parent
    files = {
        "gamma/__init__.py": "def main(): pass\n",
        "gamma/__pycache__/old.cpython-311.pyc": "stale",
        "gamma-1.0.data/purelib/gamma_pure.py": "",
        "gamma-1.0.data/platlib/gamma_plat.py": "",
        "gamma-1.0.data/data/share/gamma/text": "words",
        "gamma-1.0.data/scripts/plain": "#!/bin/sh\n",
        "gamma-1.0.data/scripts/rewritten": "#!python\nprint()\n",
        "gamma-1.0.data/headers/gamma.h": "int gamma;",
    }
    wheel = build_wheel(folder, "gamma", "1.0", files, "[console_scripts]\ngenerated = gamma:main\n")
    site.use_wheels([*site.wheels, wheel])
    site.send()
    built(site)
    entries = manifest(site)
    assert {"bin/plain", "bin/rewritten", "bin/generated", "share/gamma/text"} <= set(entries)
    listed = {Path(path).name for path in entries}
    assert {"gamma_pure.py", "gamma_plat.py", "gamma.h", "RECORD", "INSTALLER"} <= listed
    assert "old.cpython-311.pyc" not in listed
    after = {".complete", ".compiling", "manifest.txt"}
    there = {path for path in site.environment.rglob("*") if path.is_symlink() or path.is_file()}
    wanted = {str(path.relative_to(site.environment)) for path in there if path.suffix != ".pyc"} - after
    assert {path for path in wanted if not path.startswith("lib64/")} == set(entries)
    assert "bin/python" in entries


@pytest.mark.parametrize("content", ["", "VERSION = '1.1'\n"])
def test_a_file_that_is_in_no_wheel_is_refused(site: Site, content: str) -> None:
    folder = site.wheels[0].parent
    shared = {"alpha/__init__.py": "VERSION = '9.0'\n"}
    site.use_wheels([*site.wheels, build_wheel(folder, "gamma", "1.0", shared)])
    site.send()
    wheels = {wheel.name: wheel.read_bytes() for wheel in site.incoming.glob("*.whl")}
    built(site)
    for name, packed in wheels.items():
        (site.incoming / name).write_bytes(packed)
    assert hold(site).returncode == 0
    module = next(site.environment.glob("lib/python*/site-packages/alpha/__init__.py"))
    module.unlink()
    module.write_text(content)
    done = hold(site)
    assert done.returncode == 1
    assert f"{module} has {len(content)} bytes, and no wheel's content" in done.stderr
    module.unlink()
    assert f"{module}: No such file or directory" in hold(site).stderr


def test_the_locked_one_of_two_wheels_of_a_distribution_counts(site: Site) -> None:
    site.send()
    build_wheel(site.incoming, "alpha", "0.9")
    built(site)
    assert any(path.endswith("alpha-1.0.dist-info/METADATA") for path in manifest(site))
