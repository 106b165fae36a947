"""The pages about verify describe its real behaviour."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from docs.generators.checks import BOUNDS
from provision.phases.verify.run_checks import verify
from tests.fleet import wrong_numbers
from tests.fleet.faults import administration, installed, service, surroundings
from tests.verify import served_faults
from tests.verify.localhost import LOCALHOST
from verify.cli.main import _parser
from verify.records import LEVELS, CheckContext
from verify.runner.execution import FAULTS, run
from verify.runner.registry import all_checks, select

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = DOCS / "reference"
FAMILIES = tomllib.loads((DOCS / "generators" / "fault_families.toml").read_text(encoding="utf-8"))
PAGE = (PAGES / "verify.md").read_text()
SCHEMA: dict[str, Any] = json.loads((PAGES / "verify.schema.json").read_text())


@pytest.mark.slow
def test_a_real_run_matches_the_schema_and_one_with_another_status_does_not() -> None:
    # Imported here: it builds dozens of grammars, which would cost every collection a second.
    import jsonschema

    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    document = run(all_checks(), CheckContext(level="quick"))
    jsonschema.validate(document, SCHEMA)
    document["checks"][0]["status"] = "fine"
    with pytest.raises(jsonschema.ValidationError, match="'fine' is not one of"):
        jsonschema.validate(document, SCHEMA)


def test_a_host_that_cannot_be_checked_matches_the_schema(tmp_path: Path) -> None:
    import jsonschema

    answer = verify(LOCALHOST, prefix=str(tmp_path))
    jsonschema.validate(json.loads(json.dumps(answer.document)), SCHEMA)


def test_every_option_and_fault_is_on_the_page() -> None:
    options = {option for action in _parser()._actions for option in action.option_strings if option.startswith("--")}
    assert [option for option in sorted(options - {"--help", "--version"}) if f"`{option}" not in PAGE] == []
    assert [fault for fault in FAULTS if f"`{fault}`" not in PAGE] == []


def test_the_page_has_one_row_of_bounds_for_each_check() -> None:
    rows = [id_ for row in BOUNDS for id_ in select(tuple(row["checks"]))]  # fails with the name of no check
    assert sorted(rows) == sorted(check.id for check in all_checks())


def test_the_page_names_the_checks_that_find_each_real_fault() -> None:
    """The same faults are made on a real host in tests/fleet/test_faults.py, and in a real server in tests/verify/in_vllm/test_served_api.py."""
    on_a_host = (
        *(*installed.UNIT, *installed.SECRETS, *installed.MODEL, *installed.FILES, *installed.INJECTED),
        *(*service.RUNNING, *service.TREATED, service.FROZEN, service.STOPPED, *service.INSTEAD),
        *(*surroundings.EXPOSED, *surroundings.LATER, *surroundings.NEXT_START, *administration.ALL),
    )
    made = (*on_a_host, *wrong_numbers.ALL, *served_faults.ALL)
    levels = {check.id: LEVELS.index(check.level) for check in all_checks()}
    for fault in made:
        row = FAMILIES[fault.family]
        assert set(fault.checks) <= set(row["full" if fault.level == "full" else "standard"]), fault.name
        assert max(levels[check] for check in fault.checks) <= LEVELS.index(fault.level), fault.name
    assert {fault.family for fault in made} == FAMILIES.keys()
    for name, row in FAMILIES.items():
        tried = {check for fault in made if fault.family == name for check in fault.checks}
        assert {*row["standard"], *row["full"]} <= tried, name
    assert len({fault.name for fault in made}) == len(made)
