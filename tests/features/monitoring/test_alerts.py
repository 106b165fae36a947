"""Each alert fires where it should and stays quiet elsewhere, by promtool's own test; each names a command that exists."""

import json
import re
import shlex
import subprocess
import tomllib
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from docs.grafana import described
from provision.cli import options
from provision.cli.main import app
from provision.features.monitoring import unit_sets
from provision.pipeline import CommandRequest, commands, diagnosis, operations
from tests.features.gateway.running import free_port
from tests.features.monitoring.programs import program
from tests.features.monitoring.running import ADDRESS
from tests.waiting import PATIENCE_S, wait_until
from verify.tables import table

ALERTS = Path(unit_sets.__file__).with_name("alerts.yml")


def rules_of(text: str) -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]}


RULES = rules_of(ALERTS.read_text())
CASES: list[dict[str, Any]] = tomllib.loads(Path(__file__).with_name("alerts.toml").read_text())["case"]
TYPED = (
    *((operations, name) for name in ("status", "verify")),
    *((commands, name) for name in ("plan", "run_steps")),
    (diagnosis, "diagnose_host"),
)
"""What commands of alerts call. Those of features are stopped when they have made their request."""
OF_THE_SERVER = {"firstlight_client_tokens_total"}
"""A metric of ours that vLLM's server offers; tests/verify/in_vllm/test_served_api.py reads it there."""
LABEL = re.compile(r"\{\{ \$labels\.(\w+) \}\}")


def expected(case: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the alerts of a case, as promtool compares them."""
    if "labels" not in case:
        return []
    rule, labels = RULES[case["alert"]], case["labels"]
    texts = {name: LABEL.sub(lambda found: labels[found[1]], text) for name, text in rule["annotations"].items()}
    return [{"exp_labels": labels | rule["labels"], "exp_annotations": texts | {"summary": case["summary"]}}]


@pytest.mark.long("alerts by promtool", seconds=25)
@pytest.mark.parametrize("name", RULES)
def test_an_alert_has_cases_in_which_it_fires_and_stays_quiet_and_promtool_agrees(name: str, tmp_path: Path) -> None:
    cases = [case for case in CASES if case["alert"] == name]
    assert {"labels" in case for case in cases} == {True, False}, "a case for each"
    paths = []
    for number, case in enumerate(cases):
        every = case.get("every", "10s")
        test = {
            "interval": every,
            "input_series": [{"series": series, "values": values} for series, values in case["series"].items()],
            "alert_rule_test": [{"eval_time": case["at"], "alertname": name, "exp_alerts": expected(case)}],
        }
        path = tmp_path / f"{number}.yml"
        path.write_text(json.dumps({"rule_files": [str(ALERTS)], "evaluation_interval": every, "tests": [test]}))
        paths.append(str(path))
    words = [program("promtool"), "test", "rules", *paths]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_case_is_of_an_alert() -> None:
    assert {case["alert"] for case in CASES} <= RULES.keys()


@pytest.mark.parametrize("name", RULES)
def test_an_alert_says_what_is_wrong_what_to_type_and_where_its_threshold_comes_from(name: str) -> None:
    rule = RULES[name]
    assert rule["annotations"].keys() == {"summary", "runbook", "source"}
    assert rule["labels"]["severity"] in ("critical", "warning")


@pytest.mark.parametrize("name", RULES)
def test_the_command_of_an_alert_can_be_typed_as_it_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is typed, up to where it would ask a host: for the inventory of the fleet, and a host of it."""
    path = tmp_path / "my fleet" / "hosts.yml"
    path.parent.mkdir()
    groups = {"monitoring": {"hosts": {"a": {"ansible_connection": "local"}}}}
    path.write_text(json.dumps({"all": {"children": groups}}))
    runbook = rules_of(unit_sets.alerts_text(path))[name]["annotations"]["runbook"]
    launcher, *words = shlex.split(LABEL.sub("a", runbook))
    assert launcher == "./firstlight"
    asked: list[CommandRequest] = []

    def ask(request: CommandRequest, *_: Any, **__: Any) -> int:
        asked.append(request)
        return 0

    def make(*command: str, **given: Any) -> CommandRequest:
        asked.append(request_of(*command, **given))
        raise typer.Exit(0)

    request_of = options.asked
    monkeypatch.setattr(options, "asked", make)
    for module, function in TYPED:
        monkeypatch.setattr(module, function, ask)
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, words).exit_code == 0
    [request] = asked
    assert request.limit == ("a" if "--limit" in words else None)
    if words[0] != "rollout":  # it acts on the open rollout, with its inventory
        assert request.inventory == path


def test_hosts_offer_the_metrics_of_alerts_and_dashboards(tmp_path: Path) -> None:
    """Those of vLLM and HAProxy are compared with real ones in tests/verify/in_vllm and tests/features/gateway."""
    queries = [rule["expr"] for rule in RULES.values()]
    queries += [panel["query"] for dashboard in described().values() for panel in dashboard["panel"]]
    names = set(re.findall(r"\b(?:firstlight|node)_[A-Za-z_]+", " ".join(queries)))
    exported = table("metrics").keys() | OF_THE_SERVER
    assert {name for name in names if name.startswith("firstlight_")} <= exported
    address = f"{ADDRESS}:{free_port(ADDRESS)}"
    words = [program("prometheus-node-exporter"), f"--web.listen-address={address}"]
    (tmp_path / "a.prom").write_text("firstlight_cards 1\n")
    process = subprocess.Popen([*words, f"--collector.textfile.directory={tmp_path}"], stderr=subprocess.DEVNULL)
    try:
        offered: list[str] = []

        def has_answered() -> bool:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=PATIENCE_S) as answer:
                offered.append(answer.read().decode())
            return True

        wait_until(has_answered, "the node exporter never answers")
    finally:
        process.terminate()
        process.wait(60)
    assert [name for name in names if name.startswith("node_") and not re.search(rf"\n{name}[{{ ]", offered[-1])] == []
