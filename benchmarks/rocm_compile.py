"""One kernel of flash-attn for AMD cards, compiled without a card: `python3 -m benchmarks.rocm_compile SDIST [--gfx gfx942]`.

SDIST is the source of flash-attn, which contains Composable Kernel. Its own generator writes the kernels of the forward pass, and one of them (head size 64,
float16, no mask) is compiled by hipcc as setup.py does it, without the options that this clang does not know. Debian 13's packages `hipcc` and `libamdhip64-dev`
are enough. Not a timed benchmark: the result is always kept, and says what was compiled, for which card, and by which compiler.
"""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.machine import header, publish

CK = Path("csrc/composable_kernel")
GENERATOR = CK / "example/ck_tile/01_fmha"
KERNEL = "fmha_fwd_d64_fp16_batch_*_nbias_nmask_nlse_ndropout_*"
TYPES = ("BF16", "BF8", "FP16", "FP32", "FP64", "FP8", "INT8")
FLAGS = (
    "-fPIC", "-O3", "-std=c++17", "-fgpu-flush-denormals-to-zero", "-mllvm", "--lsr-drop-solution=1",
    "-DCK_TILE_FMHA_FWD_FAST_EXP2=1", "-DCK_TILE_FLOAT_TO_BFLOAT16_DEFAULT=3", "-DCK_USE_XDL", "-DUSE_PROF_API=1",
    *(f"-DCK_ENABLE_{name}" for name in TYPES),
    "-Wno-invalid-constexpr",  # clang 17 takes three functions of 4-bit numbers for errors, which no kernel here calls
)  # fmt: skip
"""The options of setup.py in 2.8.3.post2 for a compiler of this age, and one for clang 17."""


def device_code(binary: bytes) -> dict[str, int]:
    """Return the AMD architectures in an object file or library of hipcc, with the number of code objects for each."""
    found: dict[str, int] = {}
    for match in re.finditer(rb"hipv4-amdgcn-amd-amdhsa--(gfx[0-9a-f]+)", binary):
        found[match[1].decode()] = found.get(match[1].decode(), 0) + 1
    return found


def compile_kernel(source: Path, gfx: str, target: Path) -> Path:
    """Compile one kernel of an unpacked sdist. Returns its file."""
    kernels = target / "kernels"
    kernels.mkdir()
    generate = [sys.executable, str(GENERATOR / "generate.py"), "-d", "fwd", "--output_dir", str(kernels)]
    subprocess.run([*generate, "--receipt", "2", "--optdim", "64"], cwd=source, check=True)
    kernel = min(kernels.glob(f"{KERNEL}.cpp"))
    includes = [f"-I{source / folder}" for folder in (CK / "include", GENERATOR)]
    command = ["hipcc", "-x", "hip", "-c", str(kernel), "-o", str(target / "kernel.o"), f"--offload-arch={gfx}"]
    subprocess.run([*command, *FLAGS, *includes], check=True)
    return kernel


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sdist", type=Path)
    parser.add_argument("--gfx", default="gfx942")
    given = parser.parse_args()
    result = header("rocm_compile")
    said = subprocess.run(["hipcc", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()
    result["versions"] |= {"hip": said[0].removeprefix("HIP version: "), "compiler": said[1]}
    with TemporaryDirectory(prefix="firstlight-") as folder:
        subprocess.run(["tar", "-xf", given.sdist, "-C", folder], check=True)
        source = next(path for path in Path(folder).iterdir() if path.is_dir())
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        kernel = compile_kernel(source, given.gfx, Path(folder))
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        binary = (Path(folder) / "kernel.o").read_bytes()
    result |= {
        "sdist": given.sdist.name,
        "kernel": kernel.stem,
        "device_code": device_code(binary),
        "object_bytes": len(binary),
        "cpu_s": round(used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime, 1),
        "largest_process_gib": round(used.ru_maxrss / 2**20, 2),
    }
    met = given.gfx in result["device_code"]
    result["aim"] = {"device_code": given.gfx, "met": met}
    publish(result, "rocm_compile", always=True)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
