"""`./firstlight verify upgrade`: the Python that runs it, and its answer."""

import subprocess
import sys
from pathlib import Path

import pytest

from provision.core.errors import UsageError
from provision.features.measure.commands import upgrade_model

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = f"import sys; sys.path[0] = {str(ROOT)!r}; from provision.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, "verify", "upgrade", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_needs_no_torch(tmp_path: Path) -> None:
    done = run(tmp_path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--write" in done.stdout


def test_the_answer_does_not_depend_on_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "verify.py").write_text("raise SystemExit('imported from the wrong place')")
    done = run(tmp_path, "model:make", "--python", sys.executable)
    assert done.returncode == 3
    assert "error: torch does not import: No module named 'torch'" in done.stderr


def test_without_an_installation_the_error_has_a_hint(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist or is no program") as raised:
        upgrade_model(["model:make"], tmp_path / "python")
    assert raised.value.hint == "install one with ./firstlight provision, or name yours with --python"
