"""Libraries read as files: symbols compared with another reader's, GPU code of a section, and the reports about both."""

import shutil
import subprocess
import sys
import sysconfig
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.verify.test_gpu_code import EXACT, NATIVE, PTX, container, entry
from verify.binaries import elf
from verify.binaries.elf import is_of_torch, read_codes
from verify.checks.libraries import builds
from verify.records import CheckContext
from verify.tables import table

WANTED, OFFERED = "_ZN3c106detail14torchCheckFailEPKcS2_jRKNSt7__cxx1112basic_stringE", "_ZN4lamp5shineEv"


def library(folder: Path, fatbin: bytes = b"", linked: str = "") -> Path:
    """A real library that needs one symbol and provides one, with a section as nvcc embeds it, linked with a library of that name."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: reading of ELF files is NOT TESTED")
    (folder / "code.bin").write_bytes(fatbin)
    section = '.section .nv_fatbin,"a"\n.incbin "code.bin"\n' if fatbin else ""
    (folder / "lamp.s").write_text(
        f".text\n.globl {OFFERED}\n{OFFERED}:\n.quad {WANTED}\n.weak _ZN2at4weakEv\n.quad _ZN2at4weakEv\n{section}"
        '.section .note.GNU-stack,"",@progbits\n'
    )
    made = folder / "_C.so"
    command = [compiler, "-shared", "-nostdlib", "-Wl,-z,notext"]
    if linked:
        (folder / "empty.s").write_text("")
        subprocess.run([*command, f"-Wl,-soname,{linked}", "-o", linked, "empty.s"], cwd=folder, check=True)
    subprocess.run(
        [*command, "-Wl,--no-as-needed", "-o", made, "lamp.s", *filter(None, [linked])], cwd=folder, check=True
    )
    return made


def test_symbols_and_sections_are_those_of_the_file(tmp_path: Path) -> None:
    with library(tmp_path, container(entry(NATIVE, 90, EXACT), entry(PTX, 90))).open("rb") as file:
        found = elf.map_library(file)
    wanted, offered = found.symbols()
    assert WANTED in wanted
    assert OFFERED in offered
    assert "_ZN2at4weakEv" not in wanted | offered
    assert found.section(".bss") is None
    assert read_codes(tmp_path / "_C.so") == {"90a", "p90"}
    assert read_codes(library(tmp_path)) is None


def test_another_reader_sees_the_same_symbols_machine_libraries_and_versions() -> None:
    from elftools.elf.dynamic import DynamicSection
    from elftools.elf.elffile import ELFFile
    from elftools.elf.gnuversions import GNUVerNeedSection
    from elftools.elf.sections import SymbolTableSection

    paths = sorted(Path(sysconfig.get_path("platlib")).rglob("*.so"))[:6]
    assert paths
    for path in paths:
        with path.open("rb") as file:
            other = ELFFile(file)
            symbols, dynamic = other.get_section_by_name(".dynsym"), other.get_section_by_name(".dynamic")
            assert isinstance(symbols, SymbolTableSection)
            assert isinstance(dynamic, DynamicSection)
            there = [(symbol.name, symbol["st_shndx"], symbol["st_info"]["bind"]) for symbol in symbols.iter_symbols()]
            libraries = {str(getattr(tag, "needed", "")) for tag in dynamic.iter_tags("DT_NEEDED")}
            needed = other.get_section_by_name(".gnu.version_r")
            pairs = needed.iter_versions() if isinstance(needed, GNUVerNeedSection) else ()
            versions = {version.name for _, entries in pairs for version in entries}
            machine = other["e_machine"]
            found = elf.map_library(file)
        wanted, offered = found.symbols()
        assert wanted == {name for name, at, bind in there if at == "SHN_UNDEF" and bind != "STB_WEAK"}, path
        assert offered == {name for name, at, _ in there if at != "SHN_UNDEF"}, path
        assert found.needed() == libraries, path
        assert found.versions() == versions, path
        assert f"EM_{found.machine.upper()}" == machine, path


@pytest.mark.parametrize("keep", [0, 6, 40, 70, 3000])
def test_a_truncated_library_is_an_error(tmp_path: Path, keep: int) -> None:
    whole = library(tmp_path).read_bytes()
    assert keep < len(whole)
    with pytest.raises(ValueError, match=r"not a 64-bit ELF|cut off|reaches beyond"):
        elf.Elf(memoryview(whole[:keep])).symbols()


def test_symbols_of_torch_are_recognised() -> None:
    assert is_of_torch(WANTED)
    assert not is_of_torch(OFFERED)


@pytest.mark.parametrize(
    ("codes", "status", "words"),
    [
        ({"torch": {"80", "90"}, "vLLM": {"90a", "p90"}}, "ok", "libraries with code for 9.0: torch, vLLM"),
        ({"torch": {"80", "90"}, "vLLM": {"80", "p80"}}, "warn", "vLLM has no code for 9.0, only PTX"),
        ({"torch": {"80", "90"}, "vLLM": {"80", "p100"}}, "fail", "vLLM has no code for 9.0 (it has 80, p100)"),
        ({"torch": {"90"}, "vLLM": set()}, "ok", "targets cannot be read"),
        ({}, "error", "no library with GPU code"),
    ],
)
def test_missing_code_for_the_gpu_is_named_with_the_existing_code(
    codes: dict[str, set[str]], status: str, words: str
) -> None:
    outcome = builds.evaluate_gpu_code("9.0", {owner: {f"{owner}.so": found} for owner, found in codes.items()})
    assert (outcome.status, words in outcome.reason) == (status, True), outcome.reason


def test_a_library_without_code_is_named_although_another_of_its_owner_has_code() -> None:
    libraries = {"vllm/_C.abi3.so": {"80", "90a"}, "vllm/_moe_C.abi3.so": {"80", "86"}}
    outcome = builds.evaluate_gpu_code("9.0", {"vLLM": libraries})
    assert (outcome.status, outcome.reason) == ("warn", "vllm/_moe_C.abi3.so has no code for 9.0 (it has 80, 86)")


def environment(folder: Path, monkeypatch: pytest.MonkeyPatch, **codes: bytes) -> dict[str, Path]:
    """An environment in this folder whose packages have a library each, with these sections; `torch` is the listed one."""
    made = {}
    for name, section in codes.items():
        place = folder / ("torch/lib" if name == "torch" else name)
        place.mkdir(parents=True)
        made[name] = library(place, section).rename(place / ("libtorch_cuda.so" if name == "torch" else f"{name}.so"))
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(folder))
    monkeypatch.setattr(sys, "prefix", str(folder))
    monkeypatch.setattr(builds, "architecture", lambda _: "9.0")
    return made


def test_every_library_of_the_environment_is_read_and_the_loaded_ones_without_code_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = container(entry(NATIVE, 80)), container(entry(NATIVE, 90, EXACT))
    made = environment(
        tmp_path, monkeypatch, torch=new, old=old, idle=old, jit=container(entry(PTX, 80)), cut=new[:-8], none=b""
    )
    monkeypatch.setattr(builds, "mapped_libraries", lambda _: [made["torch"], made["old"], made["jit"]])
    outcome = builds.gpu_code(CheckContext(device="cuda:0"))
    assert (outcome.status, outcome.reason) == (
        "ok",
        f"libraries with code for 9.0: torch; {made['old']}, which torch loads, has no code for 9.0 (it has 80)",
    )
    others = {Path(path).stem: code for path, code in outcome.evidence["other files"].items()}
    assert others.pop("cut").endswith("reaches beyond its section")
    assert others == {"old": ["80"], "idle": ["80"], "jit": ["p80"]}


@pytest.mark.parametrize(
    ("library", "majors"),
    [
        ("vllm/_moe_C_stable_libtorch.abi3.so", None),
        ("vllm/_flashmla_C.abi3.so", ["9", "10"]),
        ("vllm/_flashkda_C.abi3.so", ["9", "10", "12"]),
        ("vllm/_deepselect_C.abi3.so", ["10"]),
        ("nvidia/nccl/lib/libnccl.so.2", None),
        ("flash_attn_3/_C.abi3.so", None),
    ],
)
def test_libraries_of_each_path_are_read_on_the_cards_that_they_are_made_for(
    library: str, majors: list[str] | None
) -> None:
    rows = [row for row in table("libraries")["gpu_code"] if any(fnmatch(library, name) for name in row["globs"])]
    assert [row.get("majors") for row in rows] == [majors]
