"""The C interface of flash attention: built by its script, and used from C under AddressSanitizer, from Rust and by ctypes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.required import program
from tests.verify.test_in_torch import run_there

pytestmark = pytest.mark.slow
LONG = pytest.mark.long("the C interface", seconds=70)
"""Of the tests that compile the library and what uses it."""

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "verify" / "cabi"
HERE = Path(__file__).parent / "c_interface"
WARNINGS = "-Wall -Wextra -Werror"
SANITIZE = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g"


def run(command: list[str | Path], **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive", **variables}  # threads that wait must sleep, not spin
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)


def built(python: Path, folder: Path, flags: str) -> Path:
    program("c++")
    done = run([python, SOURCE / "build.py", "--output", folder], CXXFLAGS=f"{WARNINGS} {flags}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{folder / 'libflash_attn.so'}\n"
    assert {path.name for path in folder.iterdir()} == {"flash_attn.h", "libflash_attn.so"}
    return folder


@pytest.fixture(scope="module")
def library(torch_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(torch_python, tmp_path_factory.mktemp("library"), "")


@LONG
def test_from_c_under_the_address_sanitizer(torch_python: Path, tmp_path: Path) -> None:
    folder = built(torch_python, tmp_path / "sanitized", SANITIZE)
    compiled = run(
        [
            program("cc"), "-std=c11", "-O1", "-pedantic", *WARNINGS.split(), *SANITIZE.split(), f"-I{folder}",
            HERE / "check.c", "-o", tmp_path / "check", f"-L{folder}", f"-Wl,-rpath,{folder}", "-lflash_attn", "-lm", "-ldl", "-pthread",
        ]
    )  # fmt: skip
    assert compiled.returncode == 0, compiled.stderr
    pretended = tmp_path / "libpretended_gpu.so"
    torch = run([torch_python, "-c", "import torch; print(torch.__path__[0])"]).stdout.strip()
    made = run(
        [
            program("c++"), "-std=c++20", "-fPIC", "-shared", "-isystem", f"{torch}/include",
            HERE / "pretended_gpu.cpp", "-o", pretended, f"-L{torch}/lib", "-lc10",
        ]
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    for arguments, refused in (([], 39), ([pretended], 45)):
        # torch itself keeps memory until its process ends.
        done = run([tmp_path / "check", *arguments], ASAN_OPTIONS="detect_leaks=0", UBSAN_OPTIONS="print_stacktrace=1")
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"64 problems compared, {refused} arguments refused, 60 problems in threads\n"


@LONG
def test_from_rust(library: Path, tmp_path: Path) -> None:
    """The crate is copied, because cargo writes its lock beside it."""
    crate = tmp_path / "crate"
    shutil.copytree(SOURCE / "rust", crate)

    def cargo(*arguments: str) -> str:
        done = run(
            [program("cargo"), *arguments, "--offline", "--manifest-path", crate / "Cargo.toml"],
            FLASH_ATTN_LIB=str(library),
            CARGO_TARGET_DIR=str(tmp_path / "target"),
            RUSTFLAGS="-D warnings",
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "test result: ok. 5 passed; 0 failed; 0 ignored" in cargo("test")
    assert cargo("run", "--example", "decode") == "the token sees token 100.0 of 256\n"
    cargo("bench", "--no-run")


@LONG
def test_by_ctypes(library: Path, torch_python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASH_ATTN_LIBRARY", str(library / "libflash_attn.so"))
    run_there(torch_python, HERE, tmp_path)


@LONG
def test_the_library_exports_the_functions_of_its_header_alone(library: Path) -> None:
    done = run([program("nm"), "--dynamic", "--defined-only", "--format=posix", library / "libflash_attn.so"])
    named = {line.split()[0] for line in done.stdout.splitlines() if line.split()[1] == "T"}
    assert named == {"flash_attn_forward", "flash_attn_backward", "flash_attn_status_text", "flash_attn_last_error"}


def test_without_torch_the_error_names_what_helps(tmp_path: Path) -> None:
    done = run([sys.executable, SOURCE / "build.py", "--output", tmp_path])
    assert (done.returncode, done.stdout) == (3, "")
    assert "error: torch does not import: " in done.stderr
    assert "hint: run this with the Python of an environment that has torch" in done.stderr


def test_the_library_is_linked_to_the_torch_that_it_was_compiled_for(tmp_path: Path) -> None:
    """Not to that of the link through which the Python was called, which leads to another environment later."""
    torch = tmp_path / "envs/e1/torch"
    torch.mkdir(parents=True)
    (torch / "__init__.py").write_text("def compiled_with_cxx11_abi():\n    return True\n")
    (tmp_path / "current").symlink_to("envs/e1")
    done = run(
        [sys.executable, SOURCE / "build.py", "--output", tmp_path / "there"],
        PYTHONPATH=str(tmp_path / "current"),
        CXX="false",
    )
    assert f"-Wl,-rpath,{torch}/lib" in done.stderr
    assert "current" not in done.stderr


def test_without_a_compiler_the_error_names_its_package(torch_python: Path, tmp_path: Path) -> None:
    done = run([torch_python, SOURCE / "build.py", "--output", tmp_path / "there"], CXX="no-such-compiler")
    assert (done.returncode, done.stdout) == (3, "")
    assert "error: `no-such-compiler` is not installed\n\nhint: install g++" in done.stderr
    assert not (tmp_path / "there").exists()


def test_a_compiler_that_fails_leaves_the_library_of_before(torch_python: Path, tmp_path: Path) -> None:
    (tmp_path / "libflash_attn.so").write_text("of before")
    done = run([torch_python, SOURCE / "build.py", "--output", tmp_path], CXXFLAGS="--no-such-option")
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: the compiler ended with `1`" in done.stderr
    assert [path.read_text() for path in tmp_path.iterdir()] == ["of before"]
