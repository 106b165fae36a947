"""The grammar of --what-if."""

import pytest

from provision.core.errors import InventoryError, UsageError
from provision.core.models.settings import Settings
from provision.phases.plan.cards import amd_row, nvidia_by_name, nvidia_cards, with_slices
from provision.phases.plan.what_if import hosts_of_what_if, parse_what_if

GIB = 1024**3


def test_every_key_is_read() -> None:
    facts = parse_what_if(
        "gpu=H100x8 driver=535.183.01 os=ubuntu-22.04 python=3.10 arch=x86_64 cpu=avx512 glibc=2.35 ram=1024 disk=500 container=no"
    )
    assert facts.nvidia is not None
    assert [gpu.name for gpu in facts.nvidia.gpus] == ["H100"] * 8
    assert facts.nvidia.driver_version == "535.183.01"
    assert (facts.os.id, facts.os.version_id, facts.os.package_manager) == ("ubuntu", "22.04", "apt")
    assert (facts.os.libc, facts.os.libc_version, facts.os.machine) == ("glibc", "2.35", "x86_64")
    assert facts.pythons[0].version == "3.10"
    assert facts.cpu.isa == "avx512"
    assert facts.memory.total == 1024 * GIB
    assert facts.disks[0].free == 500 * GIB
    assert facts.container is None
    assert set(facts.unknown) == {"programs"}


@pytest.mark.parametrize("gpu", ["H100", "A100-40GB", "RTX PRO 6000"])
def test_a_described_gpu_can_be_split(gpu: str) -> None:
    wanted = Settings.model_validate({"mig": {0: ["1g.10gb", "1g.10gb"]}})
    (card,) = nvidia_cards(with_slices(parse_what_if(f"gpu={gpu}x1"), wanted))
    assert (card.mig, card.slices) == (True, 2)


@pytest.mark.parametrize("gpu", ["T4", "A40", "L4", "RTX5090"])
def test_a_described_gpu_without_slices_cannot_be_split(gpu: str) -> None:
    with pytest.raises(InventoryError, match="GPU 0, which cannot be split"):
        with_slices(parse_what_if(f"gpu={gpu}x1"), Settings.model_validate({"mig": {0: ["1g.10gb"]}}))


def test_omitted_values_are_unknown() -> None:
    facts = parse_what_if("gpu=A100x2")
    assert facts.unknown["nvidia.driver_version"] == "not given"
    assert facts.unknown["container"] == "not given"
    assert facts.os.libc is None
    assert facts.memory.total is None


def test_cards_of_several_kinds_are_numbered_consecutively() -> None:
    facts = parse_what_if("gpu=RTX4090x1,RTX2080Tix2")
    assert facts.nvidia is not None
    assert [(gpu.index, gpu.name) for gpu in facts.nvidia.gpus] == [(0, "RTX4090"), (1, "RTX2080Ti"), (2, "RTX2080Ti")]


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("RTX5090", ["RTX5090"]),
        ("rtx 5090 ram=64", ["RTX5090"]),
        ("2XH100 driver=535.183.01", ["H100", "H100"]),
        ("gpu=2 x l4", ["L4", "L4"]),
        ("DGX Spark", ["GB10"]),
        ("RX7900XTXx2", ["RX7900XTX", "RX7900XTX"]),
        ("gpu=RTX 4090,NVIDIA GeForce RTX 2080 Ti x1", ["RTX4090", "RTX2080Ti"]),
        ("gpu=rtx4070tisuperx2,h100sxm5x1", ["RTX4070TiSUPER", "RTX4070TiSUPER", "H100"]),
    ],
)
def test_cards_are_named_as_people_write_them(line: str, names: list[str]) -> None:
    facts = parse_what_if(line)
    cards = facts.nvidia or facts.amd
    assert cards
    rows = [nvidia_by_name(str(gpu.name)) or amd_row(str(gpu.name)) for gpu in cards.gpus]
    assert [row.name for row in rows if row] == names


@pytest.mark.parametrize(
    ("line", "sizes"),
    [
        ("gpu=A100-40GBx2", [39, 39]),
        ("A100x1,NVIDIA A100-SXM4-80GB", [79, 79]),
        ("gpu=V100-16GB", [15]),
        ("P100 12g", [11]),
        ("gpu=Tesla T4 16GB", [14]),
        ("B200 180GB", [178]),
        ("gpu=GH200 480GB", [95]),
        ("RTX5090", [31]),
    ],
)
def test_a_size_in_the_name_of_a_card_is_its_memory(line: str, sizes: list[int]) -> None:
    assert [card.memory_gib for card in nvidia_cards(parse_what_if(line))] == sizes


def test_an_unknown_card_is_answered_with_at_most_five_names() -> None:
    with pytest.raises(UsageError) as caught:
        parse_what_if("4090x1")
    assert "did you mean one of `RTX4090`," in str(caught.value.hint)
    assert str(caught.value.hint).count("`") <= 2 * 5


def test_a_word_that_resembles_no_card_gets_no_suggestion() -> None:
    with pytest.raises(UsageError) as caught:
        parse_what_if("Foo")
    assert "did you mean" not in str(caught.value.hint)


def test_a_host_without_card_and_driver_and_with_musl_is_described() -> None:
    facts = parse_what_if("gpu=none glibc=none")
    assert facts.nvidia is None
    assert facts.amd is None
    assert facts.os.libc == "musl"
    without = parse_what_if("gpu=L4x1 driver=none")
    assert without.nvidia is not None
    assert without.nvidia.driver_version is None
    assert "nvidia.driver_version" not in without.unknown


def test_amd_cards_are_described() -> None:
    facts = parse_what_if("gpu=MI300Xx8")
    assert facts.amd is not None
    assert len(facts.amd.gpus) == 8
    assert facts.amd.rocm_version is None
    with_rocm = parse_what_if("gpu=MI350Xx8 rocm=7.2.2")
    assert with_rocm.amd is not None
    assert with_rocm.amd.rocm_version == "7.2.2"


def test_a_number_of_hosts_is_no_fact_of_one() -> None:
    assert parse_what_if("hosts=2 gpu=H100x8") == parse_what_if("gpu=H100x8")
    assert (hosts_of_what_if("hosts=2 gpu=H100x8"), hosts_of_what_if("gpu=H100x8")) == (2, 1)


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("hosts=0 gpu=L4x1", "`hosts=0` cannot be read", "a number of hosts from 1 to 64"),
        ("hosts=65 gpu=L4x1", "`hosts=65` cannot be read", "hosts=2"),
        ("gpus=H100x8", "`gpus` is not a key of --what-if", "did you mean `gpu`?"),
        ("drvier=535", "`drvier` is not a key", "did you mean `driver`?"),
        ("gpu=H10x8", "`H10` is not a GPU in the catalog", "did you mean one of `H100`,"),
        ("RTX5999", "`RTX5999` is not a GPU in the catalog", "`RTX5090`"),
        ("foo9000", "`foo9000` is not a GPU in the catalog", "did you mean `PROW7900`? "),
        (
            "gpu=A100-48GBx8",
            "`gpu=A100-48GB`: A100 with 48 GB is not in the catalog",
            "A100 with 39 GiB, 63 GiB, 79 GiB;",
        ),
        ("gpu=H100x0", "`gpu=H100x0` does not name 1 to 64 GPUs", "gpu=H100x8"),
        ("gpu=99999xH100", "`gpu=99999xH100` does not name 1 to 64 GPUs", "gpu=H100x8"),
        (f"driver={'9' * 5000}.1 gpu=L4x1", "cannot be read", "numbers with dots"),
        (f"ram={'9' * 400}", "cannot be read", "ram=64"),
        ("driver=new gpu=L4x1", "`driver=new` cannot be read", "numbers with dots, as in driver=580.95.05"),
        ("gpu=none driver=535.183.01", "`driver=` needs a host with NVIDIA GPUs", "gpu=H100x8"),
        ("gpu=MI300Xx8 rocm=new", "`rocm=new` cannot be read", "rocm=7.2.2"),
        ("gpu=L4x1 rocm=7.2.2", "`rocm=` needs a host with AMD GPUs", "gpu=MI300Xx8"),
        ("os=ubuntu", "`os=ubuntu` cannot be read", "os=ubuntu-22.04"),
        ("arch=arm64", "`arch=arm64` cannot be read", "x86_64, aarch64"),
        ("cpu=avx", "`cpu=avx` cannot be read", "sse4_2, avx2, avx512, amx"),
        ("ram=lots", "`ram=lots` cannot be read", "ram=64"),
        ("disk=-1", "`disk=-1` cannot be read", "disk=64"),
        ("container=maybe", "`container=maybe` cannot be read", "yes, no"),
        ("container", "`container` is not a GPU in the catalog", "gpus.toml has all names"),
        ("ram=", "`ram=` is not key=value", "gpu=H100x8"),
        ("ram= gpu=L4", "`ram=` is not key=value", "gpu=H100x8"),
        ("ram=1 ram=2", "`ram` occurs twice: 1 and 2", None),
    ],
)
def test_an_invalid_value_is_named(line: str, message: str, hint: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        parse_what_if(line)
    assert message in caught.value.text
    assert (hint or "") in (caught.value.hint or "")
