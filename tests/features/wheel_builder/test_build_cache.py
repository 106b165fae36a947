from typing import Any

import pytest

from provision.features.wheel_builder.build import BuildCache, BuiltWheel
from provision.features.wheel_builder.recipes import BuildKey
from provision.phases.stage.wheelhouse import Store
from tests.features.wheel_builder.keys import make_key


def built(store: Store, key: BuildKey, *codes: str) -> BuiltWheel:
    file = store.root.parent / f"{key.slug}.whl"
    file.write_bytes(key.slug.encode())
    path = store.add(file)
    return BuiltWheel(
        key=key,
        torch="2.8.0",
        name=path.name,
        sha256=path.parent.name,
        size=1,
        codes=codes,
        builder="controller",
        built_at="2026-01-01T00:00:00.000Z",
        jobs=1,
        cpu_seconds=1.0,
        largest_process_gib=1.0,
        nvcc="12.8",
        log="x.log",
    )


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, True),
        ({"capabilities": ("8.6", "9.0")}, True),
        ({"capabilities": ("12.0",)}, False),
        ({"glibc": "2.40"}, True),
        ({"glibc": "2.28"}, False),
        ({"torch": "2.9"}, False),
        ({"cuda_major": 13}, False),
        ({"python": "3.11"}, False),
        ({"cxx11_abi": False}, False),
        ({"machine": "aarch64"}, False),
    ],
)
def test_a_wheel_is_used_only_for_keys_that_it_has_code_for(store: Store, wanted: dict[str, Any], found: bool) -> None:
    BuildCache(store).put(built(store, make_key(glibc="2.32", capabilities=("8.0", "9.0")), "80", "90"))
    assert (BuildCache(store).find(make_key(**wanted)) is not None) is found


def test_a_wheel_without_code_is_for_cards_with_triton_kernels(store: Store) -> None:
    amd: dict[str, Any] = {"cuda_major": None, "rocm": "6.4"}
    BuildCache(store).put(built(store, make_key(**amd, capabilities=("gfx1100",))))
    assert BuildCache(store).find(make_key(**amd, capabilities=("gfx1201",)))
    assert BuildCache(store).find(make_key(**amd, capabilities=("gfx942",))) is None


def test_missing_and_unreadable_wheels_are_skipped(store: Store) -> None:
    entry = built(store, make_key(), "90")
    BuildCache(store).put(entry)
    (store.root / "builds" / "other.json").write_text('{"of": "another release"}')
    assert list(BuildCache(store)) == [entry]
    (store.folder(entry.sha256) / entry.name).unlink()
    assert BuildCache(store).find(make_key()) is None
