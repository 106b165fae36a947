"""hosts.yml as Ansible reads it."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings
from provision.phases.install.hosts_file import Target, Verbatim, host_variables, render, verbatim
from tests.install.scripts import run_ansible

NASTY = {
    "braces": "{{ lookup('pipe', 'touch /nonexistent/evil') }}",
    "blocks": "{% raw %} # {# comment #}",
    "unit": "[Service]\nExecStart=/bin/x --chat-template '{{ messages }}'\n\ttab and trailing \n",
    "unicode": "größer → ok",
    "numbers": ["1.10", "0o17", "yes", "null", ""],
    "nested": {"no": False, "none": None, "port": 8000},
}


def target(name: str = "gpu-1", *, variables: dict[str, Any] | None = None, **connection: Any) -> Target:
    settings = {"kind": "local"} | connection
    return Target(Host(name=name, connection=Connection(**settings), settings=Settings()), variables or {})


def read_by_ansible(path: Path, host: str) -> dict[str, Any]:
    """Return the host's variables after templating, as a task gets them."""
    words = ("-m", "ansible.builtin.debug", "-a", "var=hostvars[inventory_hostname]", "-o")
    done = run_ansible("ansible", "-i", path, host, *words, HOME=str(path.parent), LC_ALL="C.UTF-8")
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.partition("=>")[2])["hostvars[inventory_hostname]"]
    return answer


def test_ansible_reads_every_value_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "hosts.yml"
    path.write_text(
        render([target(variables={f"firstlight_{key}": value for key, value in NASTY.items()})], path=str(path))
    )
    seen = read_by_ansible(path, "gpu-1")
    assert {key: seen[f"firstlight_{key}"] for key in NASTY} == NASTY
    assert seen["ansible_python_interpreter"] == str(Path(sys.executable))


def test_its_head_has_the_command_that_runs_it_from_any_folder(tmp_path: Path) -> None:
    path = tmp_path / "hosts.yml"
    path.write_text(render([target()], path=str(path)))
    _, command, *_ = path.read_text().splitlines()
    program, *words = shlex.split(command.removeprefix("#"))
    assert program == str(Path(sys.executable).with_name("ansible-playbook"))
    done = run_ansible("ansible-playbook", *words, "--list-tasks", cwd=tmp_path, HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_the_file_of_a_sudo_password_is_named_and_read_only_when_needed(tmp_path: Path) -> None:
    password = tmp_path / "it's a file"
    password.write_text("s3cret {{ word }}\nsecond line\n")
    path = tmp_path / "hosts.yml"
    text = render([target(become=True, become_password_file=str(password))], path=str(path))
    assert "s3cret" not in text
    path.write_text(
        text.replace("ansible_become_password:", "firstlight_probe:").replace(
            "ansible_become: true", "ansible_become: false"
        )
    )
    assert read_by_ansible(path, "gpu-1")["firstlight_probe"] == "s3cret {{ word }}"


def test_a_host_over_ssh_is_reached_as_in_the_inventory() -> None:
    node: dict[str, Any] = {"kind": "ssh", "address": "192.0.2.7", "port": 2222, "user": "admin"}
    variables = host_variables(target(**node, openssh_options=("-o", "StrictHostKeyChecking=yes")))
    reached = [variables[f"ansible_{name}"] for name in ("host", "port", "user")]
    assert reached == ["192.0.2.7", 2222, "admin"]
    assert "StrictHostKeyChecking=yes" in variables["ansible_ssh_common_args"]
    assert variables["ansible_python_interpreter"] == "/usr/bin/python3"


@given(
    st.recursive(
        st.none() | st.booleans() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_marking_text_as_verbatim_changes_no_value(value: Any) -> None:
    assert verbatim(value) == value


@given(st.text())
def test_every_text_that_could_start_a_template_is_marked(text: str) -> None:
    assert isinstance(verbatim("{{" + text), Verbatim)
