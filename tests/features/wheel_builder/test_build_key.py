import pytest

from provision.catalog import catalog
from provision.catalog.rows.builds import FlashSource
from provision.core.errors import StageError
from provision.features.wheel_builder.recipes import recipe_for, toolkit
from tests.features.wheel_builder.keys import make_key


def test_a_key_is_readable_as_a_name() -> None:
    key = make_key(version="2.8.3.post2", cuda_major=13, torch="2.11", capabilities=("8.0", "9.0"))
    assert key.slug == "flash-attn-2.8.3.post2-cu13-torch2.11-cxx11abi1-cp312-x86_64-glibc2.35-80-90"
    assert key.local == "cu13torch2.11cxx11abiTRUE"


def test_one_build_serves_all_keys_that_differ_only_in_cards_and_c_library() -> None:
    fleet = [
        make_key(capabilities=("8.0",), glibc="2.31"),
        make_key(capabilities=("12.0", "9.0")),
        make_key(capabilities=("8.9",), torch="2.7"),
        make_key(capabilities=("8.6",), version="2.8.2"),
    ]
    wide = make_key().covering(fleet)
    assert wide.built_for.capabilities == ("8.0", "9.0", "12.0")
    assert wide.built_for.glibc == "2.31"


@pytest.mark.parametrize(
    ("cards", "archs"),
    [
        (("9.0",), "90"),
        (("8.6", "8.9"), "80"),
        (("8.0", "8.9", "9.0", "10.3", "12.0"), "80;90;100;120"),
    ],
)
def test_flash_attn_is_built_only_for_the_architectures_of_the_fleet(cards: tuple[str, ...], archs: str) -> None:
    key = make_key(capabilities=cards)
    variables = recipe_for(key).variables(key)
    assert variables["FLASH_ATTN_CUDA_ARCHS"] == archs
    assert variables["FLASH_ATTENTION_FORCE_BUILD"] == "TRUE"
    assert variables["FLASH_ATTN_LOCAL_VERSION"] == "cu12torch2.8cxx11abiTRUE"


def test_releases_without_the_switch_build_for_their_default_architectures() -> None:
    key = make_key(version="2.7.2.post1", capabilities=("8.9",))
    assert "FLASH_ATTN_CUDA_ARCHS" not in recipe_for(key).variables(key)
    with pytest.raises(StageError, match=r"no recipe builds flash-attn 2\.7\.2 for 12\.0"):
        recipe_for(make_key(version="2.7.2", capabilities=("12.0",)))


def test_a_card_without_kernels_is_refused_with_those_that_have_them() -> None:
    with pytest.raises(StageError, match=r"for 7\.5 on cuda") as caught:
        recipe_for(make_key(capabilities=("7.5",)))
    assert "8.0" in (caught.value.hint or "")


@pytest.mark.parametrize(("card", "triton"), [("gfx942", False), ("gfx1100", True)])
def test_amd_cards_without_composable_kernels_get_triton_kernels(card: str, triton: bool) -> None:
    key = make_key(cuda_major=None, rocm="6.4", capabilities=(card,))
    recipe = recipe_for(key)
    variables = recipe.variables(key)
    assert variables["BUILD_TARGET"] == "rocm"
    assert (variables.get("FLASH_ATTENTION_TRITON_AMD_ENABLE") == "TRUE") is triton
    assert variables.get("GPU_ARCHS") == (None if triton else card)
    assert recipe.compiled is not triton


@pytest.mark.parametrize("row", [row for row in catalog().flash_sources if row.triton], ids=lambda row: row.version)
def test_the_planned_kernels_for_amd_cards_are_those_of_the_recipe(row: FlashSource) -> None:
    for card in ("gfx90a", "gfx940", "gfx942", "gfx950", "gfx1100", "gfx1201"):
        key = make_key(version=row.version, cuda_major=None, rocm="6.4", capabilities=(card,))
        assert recipe_for(key).compiled == (card in row.gfx), card


def test_other_packages_get_torchs_own_variable() -> None:
    key = make_key(name="sample-extension", version="1.2.0", capabilities=("7.5", "9.0"))
    assert recipe_for(key).variables(key) == {"TORCH_CUDA_ARCH_LIST": "7.5;9.0"}


def test_the_compiler_from_wheels_has_the_requested_release() -> None:
    assert "nvidia-cuda-nvcc==13.0.*" in toolkit().requirements("13.0")
