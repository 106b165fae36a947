"""A substitute for flash-attn without a compiled part, like its Triton build for AMD cards, and one for torch: built in seconds."""

import platform
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

from provision.catalog.index.project_page import find_sources
from provision.catalog.index.settings import read_settings
from provision.features.wheel_builder.build import BuildJob
from provision.phases.stage.solve import LockedWheel, Target
from provision.phases.stage.wheelhouse import Store
from tests.features.wheel_builder.keys import make_key
from tests.stage.site import make_wheel

SETUP = """
import os
from setuptools import setup
version = "2.8.3+" + os.environ["FLASH_ATTN_LOCAL_VERSION"]
setup(name="flash_attn", version=version, packages=["flash_attn"])
"""


def standin_job(folder: Path, store: Store, *, python: str, setup: str = SETUP) -> BuildJob:
    """The build of a source with this setup.py, for a Python minor."""
    links, source = folder / "links", folder / "flash_attn-2.8.3"
    links.mkdir(exist_ok=True)
    (source / "flash_attn").mkdir(parents=True)
    (source / "flash_attn/__init__.py").touch()
    (source / "setup.py").write_text(setup)
    with tarfile.open(links / "flash_attn-2.8.3.tar.gz", "w:gz") as packed:
        packed.add(source, source.name)
    shutil.rmtree(source)
    name, content = make_wheel("torch", "2.8.0")
    (folder / name).write_bytes(content)
    torch = store.add(folder / name)
    locked = LockedWheel("torch", "2.8.0", name, torch.parent.name, "", len(content))
    settings = read_settings()
    sources = find_sources(replace(settings, find_links=(*settings.find_links, str(links))))
    machine = platform.machine()
    key = make_key(cuda_major=None, rocm="6.4", capabilities=("gfx1100",), python=python, machine=machine)
    return BuildJob(key, [locked], Target(machine, 28, python), "", sources, store)
