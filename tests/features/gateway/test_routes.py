"""The table of routes compared with the route decorators of a real vLLM wheel: none may be missing or additional."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from provision.features.gateway import haproxy
from tests.verify.conftest import vllm_python

__all__ = ["vllm_python"]

TABLE = tomllib.loads(Path(haproxy.__file__).with_name("routes.toml").read_text())
OF_FASTAPI = {"GET /docs", "GET /redoc", "GET /openapi.json"}
OF_LIBRARIES = {"GET /metrics"}
"""Mounted from another package, so that no decorator of vLLM names it."""
METHODS = {"get", "post", "put", "patch", "delete", "websocket", "mount"}


def routes_of(package: Path) -> Iterator[str]:
    """Return every `@router.METHOD("/path")` and `app.mount("/path")` below a folder."""
    for file in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS):
                continue
            path = node.args[0] if node.args else None
            if isinstance(path, ast.Constant) and isinstance(path.value, str) and path.value.startswith("/"):
                method = "GET" if node.func.attr == "mount" else node.func.attr.upper()
                yield f"{method} {path.value}"


def test_no_route_is_both_allowed_and_refused() -> None:
    assert not TABLE["passed"].keys() & TABLE["refused"].keys()


@pytest.mark.slow
def test_the_table_has_exactly_the_routes_of_the_wheel(vllm_python: Path) -> None:
    [entrypoints] = vllm_python.parents[1].glob("lib/python*/site-packages/vllm/entrypoints")
    found = set(routes_of(entrypoints))
    assert len(found) > 50
    named = TABLE["passed"].keys() | TABLE["refused"].keys()
    assert sorted((found | OF_FASTAPI | OF_LIBRARIES) - named) == [], "in the wheel, and in neither list"
    assert sorted(named - found - OF_FASTAPI - OF_LIBRARIES) == [], "listed, and not in the wheel"
