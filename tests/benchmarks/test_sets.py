"""Measured sets: which count as known good, and errors without addresses of the user's indexes."""

from benchmarks.sets import plain
from docs.generators.sets import known_good, measured_sets


def test_the_first_users_set_works_with_dependencies_of_its_time() -> None:
    [found] = [row for row in measured_sets() if row["set"] == "vllm-0.9.1-cu128-torch-cu126"]
    assert found["ok"], found["error"]
    assert found["until"] == "2025-06-17"
    assert found["versions"]["transformers"] == "4.52.4"


def test_a_set_that_fails_is_not_among_the_known_good() -> None:
    row = measured_sets()[0] | {"vllm": "9.9.9"}
    assert "9.9.9" in known_good([row | {"ok": True}])
    assert "9.9.9" not in known_good([row | {"ok": False}])


def test_an_error_is_kept_without_addresses_and_folders() -> None:
    assert plain("ImportError: /home/me/env/lib/_C.so: undefined symbol") == "ImportError: _C.so: undefined symbol"
    assert plain("no wheel (https://user:key@mirror.example/simple: HTTP 403)") == "no wheel ((address) HTTP 403)"
