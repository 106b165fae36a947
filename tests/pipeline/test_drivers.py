"""The probe after a driver installation must show the planned driver."""

import pytest

from provision.core.models.facts import Amd, HostFacts, Nvidia
from provision.core.models.inventory import Service
from provision.core.models.settings import Settings
from provision.phases.drivers.step import disagreements, unproven
from provision.phases.install.drivers import DriverWork
from tests.pipeline.local_context import local_host

NEW = "580.178.04"
WORK = DriverWork(driver={"version": NEW, "module": "open"}, fabric_manager={"version": NEW})


def facts(nvidia: Nvidia | None) -> HostFacts:
    return HostFacts(host="gpu-1", probed_at="2026-11-20T08:00:00.000Z", nvidia=nvidia)


def test_the_planned_driver_that_runs_is_proven() -> None:
    seen = facts(Nvidia(driver_version=NEW, fabric_manager_version=NEW))
    assert unproven(WORK, seen) is None
    assert unproven(DriverWork(container_toolkit={"packages": []}), facts(None)) is None


@pytest.mark.parametrize(
    ("nvidia", "message"),
    [
        (None, f"driver {NEW} was installed, none is running"),
        (
            Nvidia(
                driver_version="570.211.01", fabric_manager_version=NEW, smi_error="Driver/library version mismatch"
            ),
            f"driver {NEW} was installed, 570.211.01 is running (Driver/library version mismatch)",
        ),
        (
            Nvidia(driver_version=NEW, fabric_manager_version="580.126.09"),
            f"fabric manager {NEW} was installed, 580.126.09 is running",
        ),
    ],
)
def test_another_running_version_is_an_error_with_both_versions(nvidia: Nvidia | None, message: str) -> None:
    error = unproven(WORK, facts(nvidia))
    assert error is not None
    assert message in error.text
    assert "journalctl" in (error.hint or "")


BOUNDED = {"version": NEW, "at_least": "580.65.06", "below": "581"}


@pytest.mark.parametrize(
    ("version", "is_proven"), [("580.95.05", True), ("580.65.06", True), ("581.1", False), ("580.1", False)]
)
def test_a_source_without_the_planned_version_may_have_another_within_the_bounds(version: str, is_proven: bool) -> None:
    error = unproven(DriverWork(driver=BOUNDED), facts(Nvidia(driver_version=version)))
    assert (error is None) is is_proven


def test_driver_and_fabric_manager_are_of_one_version_also_within_the_bounds() -> None:
    work = DriverWork(driver=BOUNDED, fabric_manager=BOUNDED)
    assert unproven(work, facts(Nvidia(driver_version="580.95.05", fabric_manager_version="580.95.05"))) is None
    error = unproven(work, facts(Nvidia(driver_version="580.95.05", fabric_manager_version="580.126.20")))
    assert error is not None
    assert "driver 580.95.05 runs with fabric manager 580.126.20" in error.text


@pytest.mark.parametrize(("version", "in_use"), [("7.2.2", None), ("7.14.0", None), ("6.4.1", "6.4.1"), (None, "none")])
def test_the_planned_rocm_must_be_in_use(version: str | None, in_use: str | None) -> None:
    seen = facts(None).model_copy(update={"amd": Amd(rocm_version=version)})
    error = unproven(DriverWork(rocm={"parts": ["rocm"], "version": "7.2.2"}), seen)
    assert (error.text if error else None) == (in_use and f"host `gpu-1`: ROCm 7.2.2 was installed, {in_use} is in use")


def test_services_of_a_machine_that_need_different_drivers_are_refused() -> None:
    services = (("m@a", Settings()), ("m@b", Settings()))
    hosts = [
        local_host(name).model_copy(update={"service": Service(name=name[2:], machine="m", services=services)})
        for name, _ in services
    ]
    driver = {"version": NEW, "module": "open", "source": "vendor"}
    older = DriverWork(driver={**driver, "version": "570.211.01"})
    same, compat = (
        DriverWork(driver=driver),
        DriverWork(cuda_compat={"version": "13.0", "folder": "/c", "packages": []}),
    )
    assert disagreements(hosts, {"m@a": same, "m@b": same}) == {}
    assert disagreements(hosts, {"m@a": same, "m@b": compat}) == {}
    found = disagreements(hosts, {"m@a": same, "m@b": older})
    assert found.keys() == {"m@a", "m@b"}
    assert (
        found["m@a"].text
        == f"the services of host `m` need different drivers: NVIDIA driver {NEW} (open kernel modules) for `m@a` "
        "and NVIDIA driver 570.211.01 (open kernel modules) for `m@b`"
    )
