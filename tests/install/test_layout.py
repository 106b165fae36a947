"""Folders and tools of an installation."""

import base64
import getpass
import stat
from pathlib import Path
from typing import Any

from tests.install.modules import run_module


def lay_out(prefix: Path, *, content: bytes = b"PK\x00\xff", **options: Any) -> dict[str, Any]:
    folders = [{"name": "", "mode": "755"}, {"name": "bin", "mode": "755"}, {"name": "home", "mode": "700"}]
    folders[-1]["owner"] = getpass.getuser()
    tools = {"verify.pyz": base64.b64encode(content).decode()}
    return run_module("firstlight_layout", prefix=str(prefix), folders=folders, tools=tools, **options)


def test_folders_and_tools_are_created_once(tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    result = lay_out(prefix)
    assert result["paths"] == [str(prefix / name) for name in ("", "bin", "home", "bin/verify.pyz")]
    assert stat.S_IMODE((prefix / "home").stat().st_mode) == 0o700
    assert (prefix / "bin/verify.pyz").read_bytes() == b"PK\x00\xff"
    assert stat.S_IMODE((prefix / "bin/verify.pyz").stat().st_mode) == 0o755
    assert lay_out(prefix)["changed"] is False


def test_check_mode_reports_and_creates_nothing(tmp_path: Path) -> None:
    result = lay_out(tmp_path / "prefix", check=True)
    assert (result["changed"], (tmp_path / "prefix").exists()) == (True, False)


def test_only_differences_are_changed(tmp_path: Path) -> None:
    lay_out(tmp_path)
    (tmp_path / "home").chmod(0o755)
    result = lay_out(tmp_path, content=b"new")
    assert result["paths"] == [str(tmp_path / "home"), str(tmp_path / "bin/verify.pyz")]


def test_an_owner_that_does_not_exist_yet_is_a_difference(tmp_path: Path) -> None:
    folders = [{"name": "", "mode": "755", "owner": "nobody-has-this-name"}]
    result = run_module("firstlight_layout", prefix=str(tmp_path), folders=folders, check=True)
    assert result["paths"] == [str(tmp_path)]


def test_the_right_to_change_what_is_served_is_taken_from_others(tmp_path: Path) -> None:
    package = tmp_path / "envs/one/lib/vllm"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "link").symlink_to("/etc/passwd")
    lay_out(tmp_path)
    for path, mode in ((package, 0o777), (package / "__init__.py", 0o646)):
        path.chmod(mode)
    result = lay_out(tmp_path)
    assert result["paths"] == [str(package), str(package / "__init__.py")]
    assert [stat.S_IMODE(path.stat().st_mode) for path in (package, package / "__init__.py")] == [0o755, 0o644]
    assert lay_out(tmp_path)["changed"] is False
