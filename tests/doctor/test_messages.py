"""Messages in the files of the causes."""

import pytest

from verify.doctor.catalog import Cause, load_causes
from verify.doctor.engine import diagnose_texts


@pytest.mark.parametrize("cause", [pytest.param(cause, id=cause.id) for cause in load_causes() if cause.messages])
def test_each_message_names_its_cause_first(cause: Cause) -> None:
    wrong = {}
    for message in cause.messages:
        named = [finding.cause.id for finding in diagnose_texts({"log": message}).findings]
        if named[:1] != [cause.id]:
            wrong[message] = named
    assert not wrong
