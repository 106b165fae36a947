"""A folder in which supervisord could not bind its socket gets no plan."""

from pathlib import Path

import pytest

from provision.core.models.facts import User
from provision.phases.plan.step import SOCKET, SOCKET_BYTES, plan
from provision.run.results import ProbedHosts
from tests.pipeline.local_context import local_context
from tests.plan.cases import CASES

LONGEST = SOCKET_BYTES - len(SOCKET)


@pytest.mark.parametrize(
    ("case", "settings", "length", "refused"),
    [
        ("cpu-user-complete-no-lingering", {}, LONGEST, False),
        ("cpu-user-complete-no-lingering", {}, LONGEST + 1, True),
        ("cpu-user-complete-no-lingering", {"serve": False}, LONGEST + 1, False),
        ("cpu-user-complete-lingering", {}, LONGEST + 1, False),
    ],
)
def test_a_prefix_is_short_enough_for_the_socket_of_supervisord(
    tmp_path: Path, case: str, settings: dict[str, bool], length: int, refused: bool
) -> None:
    facts = next(each for each in CASES if each.name == case).facts
    home = f"/{'h' * (length - 1 - len('/.local/share/firstlight'))}"
    user = User(**{**facts.user.model_dump(), "home": home})
    context = local_context(tmp_path, "a", settings=settings)
    plan(context, ProbedHosts({"a": facts.model_copy(update={"user": user})}))
    result = context.outcomes.results["a"]["plan"]
    assert (result.status == "failed") == refused, result.text
    if refused:
        assert f"has {length} bytes" in str(result.text)
        assert "firstlight_prefix" in str(result.hint)
