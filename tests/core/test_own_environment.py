"""The packages that the tool runs with, against a lock."""

from __future__ import annotations

from importlib.metadata import version

from provision.core.requirements_file import differences


def test_only_what_differs_from_the_lock_is_named() -> None:
    here = version("rich")
    lock = f"""\
rich=={here} \\
    --hash=sha256:00
    # via firstlight
typer==0.0.1 \\
    --hash=sha256:00
absent==1.0 \\
    --hash=sha256:00
colorama==0.4.6 ; sys_platform == "win32" \\
    --hash=sha256:00
"""
    assert differences(lock) == [f"typer {version('typer')}; tested with 0.0.1", "absent is missing; tested with 1.0"]
