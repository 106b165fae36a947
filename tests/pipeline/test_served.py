"""What a host says that it serves."""

import json

from provision.run.served import Served, served_of


def test_a_host_reports_its_model() -> None:
    state = json.dumps({"readiness": {"served_name": "org/m", "host": "10.0.0.1", "port": 8000, "more": 1}})
    assert served_of(state, "A=b\nVLLM_API_KEY=secret\n") == Served("org/m", "10.0.0.1", 8000, "secret")
    assert served_of(state, "A=b\n") == Served("org/m", "10.0.0.1", 8000, None)
    assert served_of('{"readiness": null}', "") is None


def test_a_host_reports_the_adapters_of_its_model() -> None:
    readiness = {"served_name": "m", "host": "10.0.0.1", "port": 8000, "adapters": ["support"]}
    found = served_of(json.dumps({"readiness": readiness}), "")
    assert found is not None
    assert found.adapters == ("support",)
