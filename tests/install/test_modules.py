"""Every module: its documentation equals its argument specification, and the oldest Python can read it."""

import ast
import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.install.modules import LIBRARY, MODULES, PLAYBOOKS, documented

OLDEST = (3, 8)
"""The oldest Python that ansible-core 2.19 supports on a host."""


@pytest.fixture(autouse=True)
def utils(monkeypatch: pytest.MonkeyPatch) -> None:
    import ansible.module_utils

    paths = [*ansible.module_utils.__path__, str(PLAYBOOKS / "module_utils")]
    monkeypatch.setattr(ansible.module_utils, "__path__", paths)


def load(name: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(name, LIBRARY / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def compare(documented: dict[str, Any], specified: dict[str, Any]) -> None:
    assert documented.keys() == specified.keys()
    for name, option in documented.items():
        found = specified[name]
        assert option["description"], name
        for key in ("type", "required", "default", "elements", "choices"):
            assert option.get(key) == found.get(key), (name, key)
        compare(option.get("suboptions", {}), found.get("options", {}))


@pytest.mark.parametrize("name", MODULES)
def test_the_documentation_is_the_argument_specification(name: str) -> None:
    module = load(name)
    document, examples, returned = documented(name)
    assert document["module"] == name
    assert f"firstlight.kit.{name.removeprefix('firstlight_')}:" in examples
    compare(document["options"], module.ARGUMENTS)
    for entry in returned.values():
        assert entry.keys() >= {"description", "type", "returned"}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_works_in_check_mode(name: str) -> None:
    assert "supports_check_mode=True" in (LIBRARY / f"{name}.py").read_text()


@pytest.mark.parametrize("path", sorted(PLAYBOOKS.glob("*/*.py")), ids=lambda path: path.stem)
def test_the_oldest_python_of_a_host_can_read_it(path: Any) -> None:
    ast.parse(path.read_text(), feature_version=OLDEST)


def test_a_record_of_a_unit_has_the_same_bytes_whatever_order_systemd_lists_units_and_paths_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unit = importlib.import_module("ansible.module_utils.firstlight_unit")
    rest = "Environment=B=2 A=1\nExecStart={ path=/b ; argv[]=/b --x ; start_time=[now] }\nMainPID=7\n"
    stop = "ExecStop={{ path=/usr/bin/podman ; argv[]=/usr/bin/podman {0} ; start_time=[now] }}\n"
    units, paths, options = ("system.slice", "sysinit.target"), ("/opt/firstlight/run", "/var/tmp"), ("rm", "-f", "-v")
    orders = [(units, paths, options), (units[::-1], paths[::-1], options[::-1])]
    shown = iter(
        f"Requires={' '.join(first)}\nRequiresMountsFor={' '.join(second)}\n{rest}{stop.format(' '.join(third))}"
        for first, second, third in orders
    )
    monkeypatch.setattr(unit, "systemctl", lambda *_: next(shown))
    service = {"scope": "system", "name": "firstlight-vllm.service"}
    first, second = unit.unit_properties(service), unit.unit_properties(service)
    assert first == second
    assert first[2:4] == ["Environment=B=2 A=1", "ExecStart={ path=/b ; argv[]=/b --x"]


@pytest.mark.parametrize(
    ("why", "hint"),
    [
        ("Cannot assign requested address", "the host lacks that address, as behind NAT: set firstlight_metrics_bind"),
        ("Address already in use", "end the program that listens there, or set firstlight_gateway_bind"),
        (None, "journalctl -u firstlight-gateway.service"),
    ],
)
def test_the_gateway_names_what_helps_against_an_address_that_it_cannot_listen_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, why: str | None, hint: str
) -> None:
    module = load("firstlight_gateway")
    bind = (
        f"[ALERT] (7) : Binding [haproxy.cfg:9] for frontend metrics: cannot bind socket ({why}) for [192.0.2.1:8404]"
    )
    monkeypatch.setattr(module, "log_of", lambda *_: bind if why else "[ALERT] (7) : out of memory")
    monkeypatch.setattr(module, "run", lambda *_: (0, "", ""))
    wanted = {"unit_path": "/etc/systemd/system/firstlight-gateway.service", "incoming": "", "digest": ""}
    gateway = module.Gateway({"prefix": str(tmp_path), "gateway": wanted, "timeout_s": 1})
    (tmp_path / "gateway").mkdir()
    (tmp_path / "gateway/current").symlink_to("new")
    with pytest.raises(module.HostError) as caught:
        gateway.take_back(None)
    assert hint in caught.value.hint
