"""One large fleet for all tests of the page."""

import pytest

from provision.core.models.records import Summary
from provision.core.run_folder import RunFolder
from provision.report.page.view import Page
from tests.report.page import fleets


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return fleets.large(tmp_path_factory.mktemp("large"))


@pytest.fixture(scope="session")
def summary(large: RunFolder) -> Summary:
    return Summary.model_validate_json(large.path("summary.json").read_bytes())


@pytest.fixture(scope="session")
def content(summary: Summary) -> Page:
    return Page(summary)
