"""The doctor of a failed run reads the phase's text first, then the host's own logs; hosts that did not fail are not read."""

import json
from pathlib import Path
from typing import Any

import pytest

from provision.core.errors import IndexUnreachableError, NoStackError
from provision.core.models.facts import HostFacts, Installed, OperatingSystem
from provision.core.models.records import PhaseResult
from provision.phases.plan import step as plan
from provision.phases.plan.rules import HOST_RULES, RULES
from provision.phases.probe.failure_evidence import Source
from provision.pipeline import failure_evidence
from provision.run.context import RunContext
from provision.run.results import ProbedHosts
from tests.pipeline.local_context import local_context, local_host, own_paths
from verify.doctor.catalog import load_causes

PORT = "preflight refuses: port 8000 is held by process 7 (python3) of root"
LIBRARY = "OSError: libnuma.so.1: cannot open shared object file: No such file or directory"


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    return local_context(tmp_path, ["n1"])


def diagnose(context: RunContext) -> None:
    failure_evidence.diagnose(context, ProbedHosts(install_paths={"n1": own_paths(context.cache)}))


def found(context: RunContext) -> list[str]:
    path = context.run.path("findings/n1.json")
    return [finding["cause"] for finding in json.loads(path.read_bytes())] if path.exists() else []


def answer_with(monkeypatch: pytest.MonkeyPatch, *sources: Source, error: BaseException | None = None) -> None:
    def collect(*_: Any, **__: Any) -> tuple[Source, ...]:
        if error is not None:
            raise error
        return sources

    monkeypatch.setattr(failure_evidence, "collect", collect)


def test_the_journal_of_a_host_is_read_after_the_text_of_the_phase(
    context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_with(monkeypatch, Source("service_journal", f"{LIBRARY}\n"), Source("kernel", "", "dmesg is not there"))
    context.record(PhaseResult(host="n1", phase="serve", status="failed", text="the service ended while it started"))
    diagnose(context)
    assert found(context) == ["libnuma-missing"]
    assert context.run.path("evidence/n1/service_journal.txt").read_text() == f"{LIBRARY}\n"
    assert not context.run.path("evidence/n1/kernel.txt").exists()


def test_the_phases_text_comes_first(context: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(monkeypatch, Source("service_journal", f"{LIBRARY}\n"))
    context.record(PhaseResult(host="n1", phase="serve", status="failed", text="it did not start", evidence=(PORT,)))
    diagnose(context)
    assert found(context)[0] == "port-in-use"


def test_evidence_is_kept_without_secrets(context: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(monkeypatch, Source("service_journal", f"VLLM_API_KEY=abcdefgh12345678 \n{LIBRARY}\n"))
    context.record(PhaseResult(host="n1", phase="serve", status="failed", text="it did not start"))
    diagnose(context)
    assert "abcdefgh12345678" not in context.run.path("evidence/n1/service_journal.txt").read_text()


def test_a_host_is_read_only_after_a_phase_that_worked_on_it(
    context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_with(monkeypatch, Source("service_journal", f"{LIBRARY}\n"))
    text = "no combination of versions fits host `n1`: glibc 2.17"
    context.record(PhaseResult(host="n1", phase="plan", status="failed", text=text))
    diagnose(context)
    assert not context.run.path("evidence").exists()


def test_a_host_that_no_longer_answers_is_diagnosed_by_its_phase(
    context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_with(monkeypatch, error=OSError("gone"))
    context.record(PhaseResult(host="n1", phase="install", status="failed", text="No space left on device"))
    diagnose(context)
    assert found(context) == ["disk-full"]


def test_a_cause_named_by_the_phase_is_not_searched_in_its_text(context: RunContext) -> None:
    install_paths = {
        "https://wheels.vllm.ai/0.31.0/cu129": "HTTP 403",
        "https://download.pytorch.org/whl/cu129": "HTTP 403",
    }
    context.fail("n1", "stage", IndexUnreachableError(install_paths, ["vllm 0.31.0 for Python 3.13"]))
    diagnose(context)
    [finding] = json.loads(context.run.path("findings/n1.json").read_bytes())
    assert (finding["cause"], finding["confidence"]) == ("index-unreachable", 1.0)
    assert finding["fix"]
    assert finding["evidence"] == ["stage: wheels.vllm.ai and download.pytorch.org cannot be reached (HTTP 403)"]


def test_texts_of_planning_are_not_classified(context: RunContext) -> None:
    text = "no combination of versions fits host `n1`: torch 2.13.0 has no wheel for Python 3.13"
    context.fail("n1", "plan", NoStackError(text))
    diagnose(context)
    assert found(context) == []


def causes_on_host(
    folder: Path, *, service: str | None = None, root: bool = True, manager: Any = "apt", serves: Any = None
) -> dict[str, Any]:
    """Return all causes by id, with the commands of a host that serves at an address and a port."""
    state = {"readiness": {"host": serves[0], "port": serves[1]}} if serves else {}
    facts = HostFacts(
        host="n1",
        probed_at="2026-01-01T00:00:00Z",
        os=OperatingSystem(id="x", package_manager=manager),
        installed=Installed(prefix="/opt/firstlight", state=state),
    )
    paths = own_paths(folder).model_copy(update={"service": service, "root": root})
    probed = ProbedHosts(facts={"n1": facts}, install_paths={"n1": paths})
    host = local_host("n1", port=8009)
    return {cause.id: failure_evidence.on_host(cause, host, probed) for cause in load_causes()}


@pytest.mark.parametrize(
    ("serves", "address"),
    [
        (("127.0.0.1", 8001), "127.0.0.1:8001"),
        (("0.0.0.0", 8001), "127.0.0.1:8001"),
        (("10.0.0.5", 8000), "10.0.0.5:8000"),
        (("::1", 8000), "[::1]:8000"),
        (None, "127.0.0.1:8009"),
    ],
)
def test_a_check_asks_the_address_of_the_service_without_a_proxy(tmp_path: Path, serves: Any, address: str) -> None:
    checks = {name: cause.check.command for name, cause in causes_on_host(tmp_path, serves=serves).items()}
    asking = {name: text for name, text in checks.items() if "/health" in text}
    assert asking.keys() == {"compile-cache-stale", "engine-hang", "service-killed", "service-stopped"}
    for text in asking.values():
        assert f"no_proxy='*' python3 -c \"import urllib.request as u; u.urlopen('http://{address}/health')\"" in text


def test_commands_name_the_unit_of_the_service(tmp_path: Path) -> None:
    causes = causes_on_host(tmp_path, service="chat")
    assert causes["service-killed"].fixes[0].command == "sudo systemctl restart firstlight-vllm@chat"
    assert "--value firstlight-health-agent@chat.service)" in causes["engine-hang"].check.command
    causes = causes_on_host(tmp_path, root=False)
    assert causes["service-killed"].fixes[0].command == "systemctl --user restart firstlight-vllm"
    assert causes["custom-allreduce"].check.command.startswith("journalctl --user -u firstlight-vllm ")
    assert causes["fabric-manager-not-needed"].fixes[0].command.startswith("sudo systemctl disable ")


@pytest.mark.parametrize(
    ("manager", "libnuma", "headers"),
    [
        ("apt", "sudo apt-get install -y libnuma1", "apt-get install linux-headers-$(uname -r) dkms gcc make"),
        ("dnf", "sudo dnf install -y numactl-libs", ""),
        ("zypper", "sudo zypper install -y libnuma1", ""),
        ("apk", "", ""),
    ],
)
def test_packages_are_installed_by_the_hosts_own_manager(
    tmp_path: Path, manager: str, libnuma: str, headers: str
) -> None:
    causes = causes_on_host(tmp_path, manager=manager)
    assert causes["libnuma-missing"].fixes[0].command == libnuma
    assert causes["kernel-module-build"].fixes[0].command == headers


def test_findings_of_a_run_have_the_commands_of_the_host(context: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(monkeypatch, Source("service_journal", f"{LIBRARY}\n"))
    context.record(PhaseResult(host="n1", phase="serve", status="failed", text="the service ended while it started"))
    system = OperatingSystem(id="rocky", package_manager="dnf")
    facts = {"n1": HostFacts(host="n1", probed_at="2026-01-01T00:00:00Z", os=system)}
    failure_evidence.diagnose(context, ProbedHosts(facts=facts, install_paths={"n1": own_paths(context.cache)}))
    [finding] = json.loads(context.run.path("findings/n1.json").read_bytes())
    assert [fix.endswith(": sudo dnf install -y numactl-libs") for fix in finding["fix"][:1]] == [True]


def test_causes_of_rules_are_known_to_the_doctor() -> None:
    named = {rule.cause for rule in (*HOST_RULES, *RULES)} - {None}
    assert named
    assert named <= {cause.id for cause in load_causes()}
    assert plan.cause_of("driver-floor") == "driver-too-old"
    assert plan.cause_of("machine") is None
