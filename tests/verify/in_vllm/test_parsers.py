"""The data of model families against the installed vLLM: its parsers, its options, and the configurations that it knows."""

from __future__ import annotations

import pytest
from transformers import CONFIG_MAPPING
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
from vllm.model_executor.models import ModelRegistry
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
from vllm.transformers_utils.config import _CONFIG_REGISTRY
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.version import __version__

from provision.core.tables import own_table
from provision.fleet.inventory.conflicts import TABLE
from provision.phases.plan.family.choices import serving_plan
from provision.phases.plan.family.families import Family, Kind, config_types, families, parsers, quantizations
from provision.phases.plan.fit.serving_request import ServingRequest
from provision.phases.plan.fit.shape import shape_of
from provision.phases.plan.fit.weights import counted
from tests.family.models import FAMILIES

RELEASE = __version__.partition("+")[0]


@pytest.mark.parametrize(
    ("kind", "registered"),
    [("tool", ToolParserManager.list_registered()), ("reasoning", ReasoningParserManager.list_registered())],
)
def test_the_table_has_the_parsers_of_this_release(kind: Kind, registered: list[str]) -> None:
    assert sorted(name for name, releases in parsers(kind).items() if RELEASE in releases) == sorted(registered)


@pytest.mark.parametrize("row", families().values(), ids=lambda row: row.name)
def test_the_parsers_of_a_family_load_and_its_model_classes_are_those_of_this_release(row: Family) -> None:
    if row.tools:
        assert ToolParserManager.get_tool_parser(row.tools)
    if row.reasoning:
        assert ReasoningParserManager.get_reasoning_parser(row.reasoning)
    assert set(row.architectures) <= set(ModelRegistry.get_supported_archs())


@pytest.fixture(scope="module")
def arguments() -> FlexibleArgumentParser:
    """The parser of the server's command line."""
    return make_arg_parser(FlexibleArgumentParser())


@pytest.mark.parametrize("model", FAMILIES, ids=lambda row: row[1])
def test_the_server_takes_the_arguments_of_a_family(
    model: tuple[str, str, dict[str, object]], arguments: FlexibleArgumentParser
) -> None:
    _, name, config = model
    shape = shape_of(config, counted({"BF16": 1 << 20}, "a test"), model=name)
    chosen = serving_plan(shape, ServingRequest(trust_remote_code=True), RELEASE)
    read = arguments.parse_args(["--model", "x", *chosen.flags])
    assert read.trust_remote_code
    row = families()[str(chosen.family)]
    assert (read.tool_call_parser, read.enable_auto_tool_choice) == (row.tools, row.tools is not None)
    assert read.reasoning_parser == (row.reasoning or "")


def test_every_name_of_an_argument_that_a_setting_decides_is_refused(arguments: FlexibleArgumentParser) -> None:
    owned = own_table(TABLE)["owned"]
    decided = [action.option_strings for action in arguments._actions if owned.keys() & set(action.option_strings)]
    names = {name for option_strings in decided for name in option_strings if not name.startswith("--no-")}
    assert "--port" in names
    assert names <= owned.keys()


def test_vllm_and_transformers_know_every_listed_configuration() -> None:
    assert config_types() <= {*CONFIG_MAPPING.keys(), *_CONFIG_REGISTRY}


def test_the_table_of_quantisations_is_right_for_this_release() -> None:
    for name, row in quantizations().items():
        assert (name in QUANTIZATION_METHODS) == (RELEASE in row.releases), name
