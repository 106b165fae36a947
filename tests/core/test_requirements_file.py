"""Requirements files with hashes, and the packages that the tool runs with against one."""

from importlib.metadata import version

from provision.core.requirements_file import LockedPackage, differences, read_lock

ONE, TWO = "1" * 64, "2" * 64
TEXT = f"""\
# made by uv
a==1.0 ; python_version < "4" --hash=sha256:{ONE}
b-c==2.0+cpu \\
    --hash=sha256:{ONE} \\
    --hash=sha256:{TWO}
    # via a==1.0
d==3 ; sys_platform == 'win32' \\
    --hash=sha256:{TWO}
"""


def test_versions_hashes_and_markers_are_read() -> None:
    found = [*read_lock(TEXT)]
    assert found == [
        LockedPackage("a", "1.0", (ONE,), 'python_version < "4"'),
        LockedPackage("b-c", "2.0+cpu", (ONE, TWO)),
        LockedPackage("d", "3", (TWO,), "sys_platform == 'win32'"),
    ]
    assert [package.requirement for package in found][1:] == ["b-c==2.0+cpu", "d==3 ; sys_platform == 'win32'"]


def test_only_what_differs_from_the_lock_is_named() -> None:
    lock = f"""\
rich=={version("rich")} \\
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
