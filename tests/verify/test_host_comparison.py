"""Comparison of equal devices and of hosts: the one that differs is named. And records in the format of CI servers."""

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from verify.host.comparison import compare
from verify.records import FLEET, CheckResult, Status, as_record
from verify.runner.registry import compare_hashes, compare_speeds
from verify.runner.report import junit

H200 = "NVIDIA H200"


@pytest.mark.parametrize(
    ("products", "status", "reason"),
    [
        ("xxx", "ok", "3 devices give the same bits as the equal ones"),
        ("xxyx", "fail", f"different bits than equal devices: cuda:2: product on {H200}"),
        ("xy", "fail", f"different bits than equal devices: cuda:0, cuda:1: product on {H200}"),
        ("xxyy", "fail", f"different bits than equal devices: cuda:0, cuda:1, cuda:2, cuda:3: product on {H200}"),
    ],
)
def test_the_device_with_other_bits_than_most_is_named(products: str, status: str, reason: str) -> None:
    """Each letter stands for the bits of a card's product."""
    answers = {
        f"cuda:{place}": {"evidence": {"name": H200, "result_hashes": {"product": value, "norm": "n"}}}
        for place, value in enumerate(products)
    }
    outcome = compare_hashes(answers)
    assert outcome
    assert (outcome.status, outcome.reason) == (status, reason)


@pytest.mark.parametrize(
    ("values", "unit", "expected"),
    [
        ((3000, 2900, 2990), "GB/s", ("ok", "equal devices are within 5% of one another")),
        ((3000, 2990, 2700), "GB/s", ("warn", "cuda:2 is 10% behind the best in memory")),
        ((28.2, 23.3), "times the time", None),
    ],
)
def test_the_slow_one_of_equal_devices_is_named_by_its_speeds_not_by_ratios(
    values: tuple[float, ...], unit: str, expected: tuple[str, str] | None
) -> None:
    answers = {
        f"cuda:{place}": {"figures": [{"name": "memory", "value": value, "unit": unit}], "evidence": {"name": H200}}
        for place, value in enumerate(values)
    }
    outcome = compare_speeds(answers)
    assert (outcome and (outcome.status, outcome.reason)) == expected


def document(
    host: str,
    *,
    gemm: Status = "ok",
    product: str = "aa",
    speed: float = 3900.0,
    name: str = H200,
    environment: str = "a1",
) -> dict[str, Any]:
    """Return the document of a host with one card."""
    figures = [{"name": "memory", "value": speed, "unit": "GB/s", "floor": None, "ceiling": None, "source": None}]
    ballot = {"name": name, "result_hashes": {"product": product}}
    return {
        "host": host,
        "environment": environment,
        "started_at": "2026-11-20T11:00:00.000Z",
        "seconds": 21.5,
        "checks": [
            as_record("kernels.gemm", host, "cuda:0", CheckResult(gemm, "as it is"), 0.25),
            as_record("kernels.determinism", host, "cuda:0", CheckResult("ok", "steady", evidence=ballot), 0.1),
            {**as_record("speed.memory", host, "cuda:0", CheckResult("ok", "recorded", evidence={"name": name}), 1.0), "figures": figures},
        ],
    }  # fmt: skip


def outcomes(*documents: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {record["id"]: (record["status"], record["reason"]) for record in compare(documents)}


def test_equal_hosts_are_reported_as_equal() -> None:
    found = outcomes(document("gpu-1"), document("gpu-2"), document("gpu-3", speed=3800.0))
    assert found[FLEET] == ("ok", "3 hosts have the same results")
    assert {status for status, _ in found.values()} == {"ok"}


def test_different_bits_and_a_slow_card_are_reported_with_their_host() -> None:
    found = outcomes(document("gpu-1"), document("gpu-2", product="bb"), document("gpu-3", speed=3000.0))
    assert found["kernels.determinism"] == (
        "fail",
        f"different bits than equal devices: gpu-2 cuda:0: product on {H200}",
    )
    assert found["speed.memory"] == ("warn", "gpu-3 cuda:0 is 23% behind the best in memory")


def test_a_result_that_an_earlier_release_did_not_have_is_not_compared() -> None:
    new = document("gpu-1")
    new["checks"][1]["evidence"]["result_hashes"]["norm"] = "n"
    assert outcomes(new, document("gpu-2"))["kernels.determinism"][0] == "ok"


def test_different_cards_are_not_compared() -> None:
    found = outcomes(document("gpu-1"), document("gpu-2", product="bb", speed=300.0, name="NVIDIA L4"))
    assert found == {FLEET: ("ok", "2 hosts have the same results")}


def test_other_libraries_may_give_other_bits_and_speeds() -> None:
    new = document("gpu-3", product="bb", speed=3000.0, environment="b2")
    assert {status for status, _ in outcomes(document("gpu-1"), document("gpu-2"), new).values()} == {"ok"}
    rebuilt = document("gpu-2", product="bb", environment="a1-2")
    assert outcomes(document("gpu-1"), rebuilt, new)["kernels.determinism"][0] == "fail"


def test_a_check_that_is_worse_on_one_host_names_it() -> None:
    hosts = [document("gpu-1"), document("gpu-2", gemm="fail"), document("gpu-3")]
    assert outcomes(*hosts)[FLEET] == ("warn", "gpu-2: kernels.gemm fail, where 2 of 3 hosts are ok")


def test_a_fault_of_most_hosts_and_a_skip_make_no_host_different() -> None:
    hosts = [document("gpu-1", gemm="fail"), document("gpu-2", gemm="fail"), document("gpu-3")]
    assert outcomes(*hosts)[FLEET] == ("ok", "no host has worse results than most of the 3")
    hosts = [document("gpu-1", gemm="skip"), document("gpu-2", gemm="skip"), document("gpu-3")]
    assert outcomes(*hosts)[FLEET][0] == "ok"


def test_of_two_hosts_the_one_with_a_fault_is_named() -> None:
    hosts = [document("gpu-1"), document("gpu-2", gemm="fail")]
    assert outcomes(*hosts)[FLEET] == (
        "warn",
        "gpu-2: kernels.gemm fail, where the 2 hosts have no majority",
    )
    hosts = [document("gpu-1"), document("gpu-2", gemm="skip")]
    assert outcomes(*hosts)[FLEET] == ("ok", "2 hosts have the same results")


def test_a_single_host_is_not_compared() -> None:
    assert compare([document("gpu-1")]) == []
    assert compare([]) == []


def test_the_file_for_ci_servers_has_every_record_once() -> None:
    one = document("gpu-1", gemm="fail")
    one["checks"].append(
        as_record("engine.vllm", "gpu-1", None, CheckResult("error", "cannot tell: \x1b[31mboom\x00"), 2.0)
    )
    one["checks"].append(as_record("speed.copies", "gpu-1", "cpu", CheckResult("skip", "no GPU"), 0.0))
    one["checks"].append(as_record("devices.xid", "gpu-1", None, CheckResult("warn", "one event"), 0.0))
    root = ET.fromstring(junit([one, document("gpu-2")]))
    first, second = root.findall("testsuite")
    assert {key: first.get(key) for key in ("name", "tests", "failures", "errors", "skipped")} == {
        "name": "gpu-1", "tests": "6", "failures": "1", "errors": "1", "skipped": "1",
    }  # fmt: skip
    cases = {case.get("name"): case for case in first}
    failure = cases["kernels.gemm[cuda:0]"].find("failure")
    assert failure is not None
    assert failure.get("message") == "as it is"
    error = cases["engine.vllm"].find("error")
    assert error is not None
    assert error.get("message") == "cannot tell: ?[31mboom?"
    assert cases["speed.copies[cpu]"].find("skipped") is not None
    assert (cases["devices.xid"].findtext("system-out"), len(cases["devices.xid"])) == ("warn: one event", 1)
    assert second.get("failures") == "0"


def test_the_file_for_ci_servers_may_have_records_around_hosts_alone() -> None:
    around = as_record("gateway.contract", "gate", None, CheckResult("ok", "9 kinds answered"), 1.0)
    [suite] = ET.fromstring(junit([], [around])).findall("testsuite")
    assert (suite.get("tests"), suite.get("timestamp")) == ("1", "")


def test_the_file_for_ci_servers_has_the_comparison_of_hosts_as_a_suite() -> None:
    hosts = [document("gpu-1"), document("gpu-2", product="bb")]
    *_, aggregate = ET.fromstring(junit(hosts, compare(hosts))).findall("testsuite")
    assert (aggregate.get("name"), aggregate.get("hostname"), aggregate.get("failures")) == (
        "comparison of hosts",
        None,
        "1",
    )
    assert aggregate.get("timestamp") == "2026-11-20T11:00:00.000"
    assert [case.get("name") for case in aggregate if case.find("failure") is not None] == ["kernels.determinism"]
