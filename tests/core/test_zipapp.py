"""Programs for hosts are built when their sources change."""

from pathlib import Path

from provision.core.zipapp import kept


def test_a_kept_program_is_built_again_when_it_or_a_source_changed(tmp_path: Path) -> None:
    source, target, built = tmp_path / "a.py", tmp_path / "a.pyz", []

    def build() -> bytes:
        built.append(1)
        return b"program"

    source.write_text("x = 1")
    for _ in range(2):
        assert kept(target, [source], build).read_bytes() == b"program"
    assert len(built) == 1
    target.write_bytes(b"another")
    assert kept(target, [source], build).read_bytes() == b"program"
    source.write_text("x = 11")
    kept(target, [source], build)
    assert len(built) == 3
