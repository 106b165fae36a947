"""The reference answer is computed once while the server starts; the run waits for it and reports its failure. Real processes and locks."""

import json
from pathlib import Path

import pytest

from provision.phases.serve.model import reference_path
from provision.phases.serve.onhost import builtin_model
from provision.phases.serve.onhost.ready import reference
from provision.phases.serve.onhost.ready.service import ReadinessRequest
from tests.serve.conftest import readiness
from verify.serving.answers import NotProvenError

MAKER = """#!/bin/sh
# As `python -I -B builtin_model.py --folder F --reference R`, but quick to say what it does.
echo run >> "$(dirname "$0")/../../runs"
sleep 0.5
{ending}
"""
ANSWERS = 'printf \'{"folder": "%s"}\' "${5##*/}" > "$7.new" && mv "$7.new" "$7"'


def request(prefix: Path, *, ending: str = ANSWERS) -> ReadinessRequest:
    python = prefix / "current" / "bin" / "python"
    python.parent.mkdir(parents=True)
    (prefix / "models/builtin-1").mkdir(parents=True)
    python.write_text(MAKER.replace("{ending}", ending))
    python.chmod(0o755)
    return readiness(prefix, reference=reference_path(str(prefix), "abc"))


def test_the_reference_is_computed_once_for_many_requests(tmp_path: Path) -> None:
    asked = request(tmp_path)
    for _ in range(3):
        reference.begin(asked)
    assert reference.wait_for(asked) == {"folder": "builtin-1"}
    assert reference.lock(asked).stat().st_mode & 0o777 == 0o600, "whoever may read it may lock it"
    reference.begin(asked)
    assert (tmp_path / "runs").read_text() == "run\n"


def test_the_reason_of_a_failed_computation_is_reported(tmp_path: Path) -> None:
    asked = request(tmp_path, ending="echo 'builtin_model: this machine computes wrongly' >&2; exit 1")
    reference.begin(asked)
    with pytest.raises(NotProvenError, match="could not be computed: builtin_model: this machine computes wrongly"):
        reference.wait_for(asked)


def test_an_existing_reference_is_used(tmp_path: Path) -> None:
    asked = request(tmp_path, ending="exit 1")
    Path(asked.reference or "").write_text(json.dumps({"tokens": [1]}))
    reference.begin(asked)
    assert reference.wait_for(asked) == {"tokens": [1]}
    assert not (tmp_path / "runs").exists()


def test_the_answer_to_the_prompt_of_an_older_release_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr(builtin_model, "PROMPT_TEXT", "Night 1.")
        path = reference_path(str(tmp_path), "abc")
    asked = request(tmp_path)
    Path(path).write_text(json.dumps({"tokens": [1]}))
    reference.begin(asked)
    assert reference.wait_for(asked) == {"folder": "builtin-1"}
