"""The tables of this package are consistent: every row has a source, every class one row, every figure a plausible value."""

from pathlib import Path

import pytest

from provision.core.tables import own_table
from provision.phases.plan.fit import tables


def test_every_class_has_one_row() -> None:
    rows = own_table(Path(tables.__file__).with_name("architectures.toml"))["architecture"]
    names = [name for row in rows for name in row["names"]]
    assert len(names) == len(set(names)) == len(tables.architectures())
    assert all(row.source for row in tables.architectures().values())


@pytest.mark.parametrize(
    "name",
    [
        *(
            "Llama",
            "Mistral",
            "Qwen2",
            "Qwen3",
            "Qwen3Moe",
            "Gemma2",
            "Gemma3",
            "Phi3",
            "Mixtral",
            "DeepseekV2",
            "DeepseekV3",
        ),
        *("GptOss", "Falcon", "GPTNeoX", "OPT"),
    ],
)
def test_known_families_have_a_row(name: str) -> None:
    row = tables.architectures()[f"{name}ForCausalLM"]
    assert row.attention != "layered" or row.full_every > 1


def test_the_table_of_batches_is_ordered_and_covers_every_size() -> None:
    sizes = [row.from_gib for row in tables.batches()]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 0


def test_estimates_are_marked_as_such() -> None:
    assert all(row.inferred for row in (*tables.platforms().values(), tables.engine()))
    assert tables.platforms().keys() == {"cuda", "rocm", "cpu"}
