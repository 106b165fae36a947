import struct

import pytest

from verify.binaries.elf import cuda_codes, hip_codes, native_for

NATIVE, PTX = 2, 1
PLAIN, EXACT, FAMILY = 0x11, 0x100011, 0x1200011
"""Flags that ptxas 13.0 writes for sm_90, sm_90a and sm_100f."""


def entry(kind: int, arch: int, flags: int = PLAIN, payload: bytes = b"\x7fELF....") -> bytes:
    head = struct.pack("<HHIQIIHHIIIQ", kind, 0x101, 64, len(payload), 0, 0, 8, 1, arch, 0, 0, flags)
    return head.ljust(64, b"\0") + payload


def container(*entries: bytes) -> bytes:
    body = b"".join(entries)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def test_every_entry_of_every_container_counts() -> None:
    section = container(entry(NATIVE, 80), entry(PTX, 80)) + container(
        entry(NATIVE, 90, EXACT), entry(NATIVE, 100, FAMILY)
    )
    assert cuda_codes(section) == {"80", "p80", "90a", "100f"}


def test_padding_between_containers_is_skipped() -> None:
    assert cuda_codes(container(entry(NATIVE, 75)) + bytes(24) + container(entry(NATIVE, 120))) == {"75", "120"}


def test_the_mark_of_a_container_counts_only_at_a_whole_word() -> None:
    assert cuda_codes(b"\0\0\0\0" + container(entry(NATIVE, 75)) + container(entry(NATIVE, 90))) == set()
    assert cuda_codes(bytes(8) + container(entry(NATIVE, 75))[:4] + bytes(4)) == set(), "nothing follows the mark"
    assert cuda_codes(b"") == set()


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (container(entry(NATIVE, 90))[:20], "reaches beyond"),
        (container(entry(NATIVE, 90))[:70], "reaches beyond"),
        (struct.pack("<IHHQ", 0xBA55ED50, 1, 16, 64) + bytes(64), "header of 0 bytes"),
    ],
)
def test_a_truncated_section_and_an_entry_without_length_are_refused(section: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        cuda_codes(section)


def test_amd_architectures_are_the_targets_of_the_bundles() -> None:
    section = (
        b"__CLANG_OFFLOAD_BUNDLE__\x02\0\0\0hipv4-amdgcn-amd-amdhsa--gfx942\0hipv4-amdgcn-amd-amdhsa--gfx90a:xnack-\0"
    )
    assert hip_codes(section) == {"gfx942", "gfx90a"}


@pytest.mark.parametrize(
    ("codes", "card", "native"),
    [
        ({"80"}, "8.0", True),
        ({"80"}, "8.9", True),
        ({"86"}, "8.0", False),
        ({"80"}, "9.0", False),
        ({"p80"}, "8.0", False),
        ({"90a"}, "9.0", True),
        ({"100a"}, "10.3", False),
        ({"100f"}, "10.3", True),
        ({"100"}, "12.0", False),
        ({"120"}, "12.1", True),
        ({"gfx942"}, "gfx942", True),
        ({"gfx90a"}, "gfx942", False),
        (set(), "8.0", False),
    ],
)
def test_native_code_is_only_for_its_own_major_number(codes: set[str], card: str, native: bool) -> None:
    assert native_for(codes, card) is native
