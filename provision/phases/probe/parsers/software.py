"""Interpreters, programs and shared libraries for installing and serving."""

from __future__ import annotations

import re

from provision.core.models.facts import CudaToolkit, Program, Python
from provision.phases.probe.parsers.values import version
from provision.phases.probe.sections import Section

_YES_NO = {"yes": True, "no": False}
_CUDA_RELEASE = re.compile(r"release [0-9.]+, V([0-9.]+)")


def pythons(section: Section, unknown: dict[str, str]) -> tuple[Python, ...]:
    if not section.ok:
        unknown["pythons"] = section.failure
    found = []
    for line in section.values("python"):
        fields = line.split("|")
        if len(fields) >= 4 and version(fields[1]):
            path, number, headers, venv, *rest = fields
            torch = rest[0] if rest and version(rest[0]) else None
            found.append(
                Python(path=path, version=number, headers=_YES_NO.get(headers), venv=_YES_NO.get(venv), torch=torch)
            )
    return tuple(found)


def programs(section: Section, unknown: dict[str, str]) -> tuple[Program, ...]:
    if not section.ok:
        unknown["programs"] = section.failure
    found = []
    for block in re.split(r"^program=", section.text, flags=re.MULTILINE)[1:]:
        name, _, rest = block.partition("|")
        path, _, said = rest.partition("|")
        if name and path.startswith("/"):
            release = _CUDA_RELEASE.search(said)
            found.append(Program(name=name, path=path, version=release[1] if release else version(said)))
    return tuple(found)


def libraries(section: Section, unknown: dict[str, str]) -> dict[str, str | None]:
    """Return each requested library with its path or None."""
    if not section.ok:
        unknown["libraries"] = section.failure
    paths: dict[str, str] = {}
    for path in section.values("found"):
        paths.setdefault(path.rpartition("/")[2], path)
    return {name: paths.get(name) for name in section.values("wanted")}


def cuda_toolkits(section: Section, compilers: tuple[Program, ...], unknown: dict[str, str]) -> tuple[CudaToolkit, ...]:
    """Return the toolkits under /usr/local; without any, that of an nvcc which a distribution installed elsewhere."""
    if not section.ok:
        unknown["cuda_toolkits"] = section.failure
    found: dict[str, CudaToolkit] = {}
    for block in re.split(r"^toolkit=", section.text, flags=re.MULTILINE)[1:]:
        path, _, said = block.partition("\n")
        if path.startswith("/"):
            lacks = tuple(re.findall(r"^lacks=(.+)$", said, flags=re.MULTILINE))
            said, compat, _ = said.partition("compat=")
            said = said.partition("lacks=")[0]
            release = _CUDA_RELEASE.search(said)
            known = release[1] if release else version(said)
            found.setdefault(path, CudaToolkit(path=path, version=known, compat=bool(compat), lacks=lacks))
    for nvcc in compilers:
        folder = nvcc.path.removesuffix("/bin/nvcc")
        if nvcc.name == "nvcc" and not found and folder != nvcc.path:
            found[folder] = CudaToolkit(path=folder, version=nvcc.version)
    return tuple(found.values())
