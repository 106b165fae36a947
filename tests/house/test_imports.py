"""Imports run downward only: cli -> pipeline -> phases -> report, fleet, catalog -> core. Read from the source itself, nothing is imported."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FLOORS: tuple[str, ...] = (
    "core.models",
    "core",
    "catalog",
    "fleet.ssh",
    "fleet",
    "report",
    "phases.probe",
    "phases.plan",
    "phases.stage",
    "phases.install",
    "phases.verify",
    "phases.serve",
    "run",
    "phases.probe.step",
    "phases.plan.step",
    "phases.drivers",
    "phases.stage.step",
    "phases.install.step",
    "phases.verify.step",
    "phases.serve.step",
    "pipeline",
    "cli.groups",
    "cli.options",
    "cli.verify",
    "features",
    "cli",
    "__main__",
)
"""The layers, lowest first. A package imports only from lower layers, so a phase imports from earlier phases at most."""

ON_HOST = (
    "provision/features/wheel_builder/onbuilder",
    "provision/features/catalog_refresh/onhost",
    "provision/features/multinode/onhost",
    "provision/features/start_cache/onhost",
    "provision/phases/serve/onhost",
    "provision/features/gateway/onhost",
    "provision/features/watchdog/onhost",
    "provision/phases/serve/plugin",
    "provision/features/peers/onhost",
)
"""Programs that run on the host, where no module of the controller exists."""

SHARED_ON_HOST = ("provision.phases.serve.onhost.shared.", "verify.")
"""Modules that are packed into the programs that import them."""

HOST_LIBRARIES = frozenset({"torch", "transformers", "vllm", "safetensors", "tokenizers", "numpy"})
"""Packages that vLLM's environment contains."""

SUBJECTS = {"verify/checks/engine": {"vllm"}, "verify/serving": {"vllm", "safetensors"}}
"""Modules that check a library, or run it: they import it, in a process of their own. vLLM's environment has safetensors."""


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Yield every module that a file imports, at any depth, with its line; relative names are made absolute."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            yield node.lineno, module
            # `from provision import errors` names its module among the names
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names if module == "provision")


def layer(module: str) -> int | None:
    """Return the layer of a module such as `provision.phases.plan.rules`; None for modules of other projects.

    Raises AssertionError for a package of the product that has no layer.
    """
    if module.split(".", maxsplit=1)[0] != "provision" or module in {
        "provision",
        "provision.phases",
        "provision.__version__",
    }:
        return None
    names = module.removeprefix("provision.")
    found = [number for number, name in enumerate(FLOORS) if f"{names}.".startswith(f"{name}.")]
    assert found, f"`{module}` has no layer: add it in {Path(__file__).name}"
    return max(found, key=lambda number: len(FLOORS[number]))


def is_doctor(module: str) -> bool:
    """Return whether a module belongs to the doctor, which works on text alone and is the same program here and on the host."""
    return f"{module}.".startswith("verify.doctor.")


def is_on_host(path: Path) -> bool:
    return path.relative_to(ROOT).as_posix().startswith(ON_HOST)


def complaint(path: Path, line: int, text: str) -> str:
    return f"{path.relative_to(ROOT)}:{line}: {text}"


def test_provision_imports_downwards_only() -> None:
    wrong = []
    for path in sources("provision"):
        own = layer(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
        if own is None or is_on_host(path):
            continue
        for line, module in imported(path):
            other = layer(module)
            if other is not None and other > own:
                wrong.append(complaint(path, line, f"`{FLOORS[own]}` must not import `{module}`"))
    assert not wrong, "\n".join(wrong)


SHARED_WITH_HOSTS = frozenset(
    {
        "verify.records",
        "verify.host.comparison",
        "verify.runner.registry",
        "verify.runner.report",
        "verify.runner.last_run",
        "verify.binaries.elf",
        "verify.printable",
        "verify.secret_masking",
    }
)
"""Modules with records of checks, their evaluation, their time limits, and the meaning of a library's bytes: plain values in, plain values out."""


def test_provision_takes_only_records_and_constants_of_verify() -> None:
    wrong = [
        complaint(path, node.lineno, f"imports `{alias.name}` of `{node.module}`")
        for path in sources("provision")
        if not is_on_host(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "verify"
        for alias in node.names
        if node.module not in SHARED_WITH_HOSTS and not is_doctor(node.module or "") and not alias.name.isupper()
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("folder", ["verify", *ON_HOST])
def test_programs_on_the_host_import_only_available_modules(folder: str) -> None:
    allowed = sys.stdlib_module_names | ({"verify", "torch"} if folder == "verify" else HOST_LIBRARIES)
    files = sources(folder)
    wrong = [
        complaint(path, line, f"imports `{module}`")
        for path in files
        for line, module in imported(path)
        if module.split(".")[0] not in allowed
        and not module.startswith((folder.replace("/", "."), *SHARED_ON_HOST))
        and module.split(".")[0] not in SUBJECTS.get(path.parent.relative_to(ROOT).as_posix(), ())
    ]
    assert files
    assert not wrong, "\n".join(wrong)


def test_nothing_of_the_product_imports_its_tests() -> None:
    wrong = [
        complaint(path, line, f"imports `{module}`")
        for path in [*sources("provision"), *sources("verify")]
        for line, module in imported(path)
        if module.split(".")[0] in {"tests", "benchmarks", "pytest", "hypothesis"}
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("code", "modules"),
    [
        ("import provision.core.run_folder as r", ["provision.core.run_folder"]),
        ("from provision import errors", ["provision", "provision.errors"]),
        ("def f():\n    from provision.cli import main", ["provision.cli"]),
        ("from ..models import facts", ["provision.models"]),
    ],
)
def test_the_reader_finds_every_kind_of_import(
    code: str, modules: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "provision" / "probe" / "example.py"
    path.parent.mkdir(parents=True)
    path.write_text(code, encoding="utf-8")
    assert [module for _, module in imported(path)] == modules
