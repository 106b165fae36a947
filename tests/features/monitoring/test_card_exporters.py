"""Exporters of card vendors are recognised by what they offer, not by their port alone."""

import subprocess
import sys
from contextlib import ExitStack

import pytest

from provision.features.monitoring.step import find_command, known_exporters
from tests.features.gateway.running import free_port
from tests.features.monitoring.running import ADDRESS, offering

DCGM = """# HELP DCGM_FI_DEV_GPU_TEMP GPU temperature (in C).
# TYPE DCGM_FI_DEV_GPU_TEMP gauge
DCGM_FI_DEV_GPU_TEMP{gpu="0",modelName="NVIDIA H200"} 37
"""
OTHER = "registry_http_requests_total 4\n"


def found(exporters: dict[int, str], python: str = sys.executable) -> list[int]:
    words = ["sh", "-c", find_command(python, {f"{ADDRESS}:{port}": sign for port, sign in exporters.items()})]
    return [*map(int, subprocess.run(words, capture_output=True, text=True, check=True).stdout.split())]


@pytest.mark.parametrize(("texts", "count"), [((DCGM, OTHER), 1), ((OTHER,), 0), ((DCGM, DCGM), 2)])
def test_exporters_that_listen_are_found(texts: tuple[str, ...], count: int) -> None:
    with ExitStack() as stack:
        places = [stack.enter_context(offering({"/metrics": text})) for text in texts]
        ports = [int(place.rpartition(":")[2]) for place in places]
        exporters = dict.fromkeys([*ports, free_port(ADDRESS)], "DCGM_FI_")
        assert found(exporters) == [port for port, text in zip(ports, texts, strict=True) if text == DCGM]
        assert len(found(exporters)) == count


def test_a_host_without_an_environment_has_none() -> None:
    assert found({9400: "DCGM_FI_"}, "/opt/none/bin/python") == []


def test_both_vendors_are_known() -> None:
    assert known_exporters() == {"127.0.0.1:9400": "DCGM_FI_", "127.0.0.1:5000": "gpu_"}
