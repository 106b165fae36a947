import hashlib
import platform
import subprocess
from pathlib import Path

import pytest

from provision.catalog.index.settings import read_settings
from provision.core.errors import StageError
from provision.phases.stage import programs
from provision.phases.stage.programs import locked_uv, stage_uv
from provision.phases.stage.wheelhouse import Store
from tests.stage.site import Site, make_wheel

FOREIGN = "aarch64" if platform.machine() == "x86_64" else "x86_64"


@pytest.fixture
def lock(site: Site, bare_client: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Our lock, with a wheel like uv's own for the other architecture, which the user's index has."""
    bare_client.write_text(f"[global]\nindex-url = {site.url}/simple\n")
    tag = f"py3-none-manylinux_2_17_{FOREIGN}.manylinux2014_{FOREIGN}"
    name, content = make_wheel("uv", "9.8.7", tag=tag, more={"uv-9.8.7.data/scripts/uv": "the program"})
    site.add_wheel(name, content)
    path = tmp_path / "requirements/run.txt"
    path.parent.mkdir()
    path.write_text(
        f"typer==1.0 \\\n    --hash=sha256:{'0' * 64}\nuv==9.8.7 \\\n    --hash=sha256:{hashlib.sha256(content).hexdigest()}\n    # via firstlight\n"
    )
    monkeypatch.setattr(programs, "LOCK", path)
    return path


def test_our_uv_is_sent_to_a_host_of_the_same_architecture_and_runs(store: Store, tmp_path: Path) -> None:
    staged = stage_uv(f"{platform.machine()}-manylinux_2_28", read_settings({}, pip_files=[], uv_files=[]), store)
    assert (staged.name, staged.kind) == ("uv", "tool")
    program = tmp_path / "uv"
    program.write_bytes(Path(staged.path).read_bytes())
    program.chmod(0o755)
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[1] == locked_uv()[0]


@pytest.mark.usefixtures("lock")
def test_another_architecture_gets_the_program_from_the_locked_wheel(site: Site, store: Store) -> None:
    staged = stage_uv(f"{FOREIGN}-manylinux_2_28", read_settings(), store)
    assert Path(staged.path).read_bytes() == b"the program"
    site.close()
    assert stage_uv(f"{FOREIGN}-manylinux_2_28", read_settings(), store) == staged


def test_a_wheel_that_is_not_in_our_lock_is_refused(lock: Path, store: Store) -> None:
    lock.write_text(f"uv==9.8.7 \\\n    --hash=sha256:{'0' * 64}\n")
    with pytest.raises(StageError, match=r"which requirements/run\.txt does not know"):
        stage_uv(f"{FOREIGN}-manylinux_2_28", read_settings(), store)


def test_a_lock_without_uv_is_named(lock: Path) -> None:
    lock.write_text("typer==1.0\n")
    with pytest.raises(StageError, match="has no hashes of uv"):
        locked_uv()
