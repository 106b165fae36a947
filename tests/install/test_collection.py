"""The collection `firstlight.kit`: built, installed and used with Ansible's own programs, where no checkout is."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from uv import find_uv_bin

from playbooks.collection import build
from tests.install.modules import MODULES, PLAYBOOKS

pytestmark = pytest.mark.long(seconds=50)
BUILDER, CREATE = "ansible-builder==3.2.0", "ansible-builder create -f"
DOCS = "antsibull-docs==2.28.0"
PYLINT = "pylint==3.3.7"
"""The version of ansible-test 2.19 and 2.20."""
SANITY = (
    *("action-plugin-docs", "changelog", "compile", "empty-init", "ignores", "no-assert", "no-get-exception"),
    *("no-illegal-filenames", "no-smart-quotes", "replace-urlopen", "shebang", "symlinks", "use-argspec-type-path"),
)
"""The sanity tests of Ansible that download nothing."""
PROGRAMS = Path(sys.executable).parent
GUIDE = PLAYBOOKS.parent / "docs/guides/ansible.md"
ROLES = sorted(path.name for path in (PLAYBOOKS / "roles").iterdir() if path.is_dir())
PLAYS = sorted(path.stem for path in PLAYBOOKS.glob("*.yml"))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def site(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of somebody's own site, in which the collection is installed."""
    folder = tmp_path_factory.mktemp("site")
    ansible(folder, "galaxy", "collection", "install", "--offline", "-p", str(folder), str(archive))
    return folder


def ansible(folder: Path, program: str, *words: str, collections: Path | None = None) -> str:
    """Run a program of Ansible in a folder, and return what it printed; it sees the collections of that folder, or of another."""
    done = run(folder, program, *words, collections=collections or folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def run(folder: Path, program: str, *words: str, collections: Path) -> subprocess.CompletedProcess[str]:
    name = f"ansible-{program}" if program else "ansible"
    return subprocess.run(
        [str(PROGRAMS / name), *words],
        cwd=folder,
        env={
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
            "HOME": str(folder),
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_COLLECTIONS_PATH": str(collections),
            "NO_COLOR": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_all_modules_and_roles_are_documented(site: Path) -> None:
    roles = ansible(site, "doc", "-t", "role", "-l", "firstlight.kit")
    assert [line for line in roles.splitlines() if not line.startswith(" ")] == [
        f"firstlight.kit.{name}:" for name in ROLES
    ]
    names = [f"firstlight.kit.{name.removeprefix('firstlight_')}" for name in MODULES]
    assert ansible(site, "doc", *names).count("\nOPTIONS") == len(names)


def test_all_playbooks_find_their_roles_and_modules(site: Path) -> None:
    plays = [f"firstlight.kit.{name}" for name in PLAYS]
    printed = ansible(site, "playbook", "-i", "localhost,", "--syntax-check", *plays)
    assert printed.count("playbook: ") == len(plays)


def test_a_module_runs_with_its_code(site: Path, tmp_path: Path) -> None:
    folders = [{"name": "", "mode": "755"}, {"name": "envs", "mode": "755"}]
    arguments = json.dumps({"prefix": str(tmp_path / "prefix"), "folders": folders, "tools": {}})
    words = ("localhost", "-c", "local", "-m", "firstlight.kit.layout", "-a", arguments)
    assert "CHANGED" in ansible(site, "", *words)
    assert (tmp_path / "prefix/envs").is_dir()
    assert "SUCCESS" in ansible(site, "", *words)


PLANNED = """all:
  hosts:
    gpu-1:
      ansible_host: 192.0.2.1
      ansible_become_password_file: /etc/sudo-password
      ansible_become_password: "{{ lookup('ansible.builtin.file', ansible_become_password_file).splitlines() | first }}"
      firstlight_prefix: /opt/firstlight
      firstlight_release: {endpoint: null, arguments: [--chat-template, !unsafe "{{ messages }}"]}
"""


@pytest.fixture
def planned(tmp_path: Path) -> Path:
    """The folder of somebody's site with an inventory of two hosts, of which a run has planned one; another run has planned a service of the other."""
    (tmp_path / "inventory").write_text("[all:vars]\nansible_connection=local\n[gpu]\ngpu-1\ngpu-2\n")
    for name, text in {"latest": PLANNED, "services": PLANNED.replace("gpu-1", "gpu-2@chat")}.items():
        document = tmp_path / f"logs/{name}/install/hosts.yml"
        document.parent.mkdir(parents=True)
        document.write_text(text)
    return tmp_path


def test_a_host_has_what_a_run_planned_and_its_own_connection(site: Path, planned: Path) -> None:
    tasks = [{"ansible.builtin.debug": {"msg": "{{ firstlight_release.arguments }} {{ ansible_host }}"}}]
    roles = [{"role": "firstlight.kit.plan", "plan_run": "logs/latest"}]
    play = {"hosts": "gpu-1", "gather_facts": False, "roles": roles, "tasks": tasks}
    (planned / "play.yml").write_text(json.dumps([play]))
    printed = ansible(planned, "playbook", "-i", "inventory", "play.yml", collections=site)
    assert "['--chat-template', '{{ messages }}'] gpu-1" in printed


@pytest.mark.parametrize(
    ("words", "cause", "hint"),
    [
        (("--check",), "check mode makes none", "run firstlight stage -i INVENTORY"),
        (("-i", "inventory"), "plans for one inventory, not for 2", "put them into one folder"),
        (("-e", "plan_program=no-tool"), "no-tool cannot be run on the controller", "install the Python package"),
        (("-e", "plan_run=logs/earlier"), "there is no plan at", "run firstlight stage -i INVENTORY"),
        (
            ("-e", "plan_run=logs/latest"),
            "has no plan for gpu-2, only for gpu-1",
            "leave the host out with --limit, or",
        ),
        (("-e", "plan_run=logs/services"), "only for gpu-2@chat", "and run firstlight provision for it"),
    ],
)
def test_a_plan_that_is_missing_or_of_other_hosts_is_refused_before_any_change(
    site: Path, planned: Path, words: tuple[str, ...], cause: str, hint: str
) -> None:
    asked = ("-i", "inventory", "firstlight.kit.site", "--limit", "gpu-2", *words)
    done = run(planned, "playbook", *asked, collections=site)
    assert done.returncode == 2, done.stdout
    assert cause in done.stdout + done.stderr
    assert hint in done.stdout + done.stderr
    assert "changed=0" in done.stdout


STAGED = {
    "run": "20260102T030405Z",
    "hosts": [
        {"name": "gpu-1", "phases": {"probe": {"status": "ok"}, "stage": {"status": "warn", "text": "", "hint": None}}},
        {"name": "gpu-2", "phases": {"probe": {"status": "unreachable", "text": "it is off", "hint": "start it"}}},
    ],
}
STAGE = f"""#!/bin/sh
cd "$(dirname "$0")"
echo "$*" >> asked
mkdir -p "$FIRSTLIGHT_LOGS/{STAGED["run"]}"
cp -r logs/latest/install "$FIRSTLIGHT_LOGS/{STAGED["run"]}"
echo '{json.dumps(STAGED)}'
exit 1
"""


def test_without_a_run_firstlight_stages_once_for_the_hosts_of_the_play(site: Path, planned: Path) -> None:
    """What it staged is used, and a host that it could not stage stops no other."""
    program(planned, STAGE)
    # Ansible's sudo is not for the controller.
    (planned / "inventory").write_text((planned / "inventory").read_text() + "gpu-3\n[all:vars]\nansible_become=true\n")
    # With any strategy of the site's own, and for some tasks only.
    (planned / "ansible.cfg").write_text("[defaults]\nstrategy = free\n")
    tasks = [{"ansible.builtin.debug": {"msg": "{{ firstlight_prefix }} {{ ansible_host }}"}, "tags": ["wanted"]}]
    plan = {"ansible.builtin.import_playbook": "firstlight.kit.plan"}
    play = {"hosts": "all", "gather_facts": False, "tasks": tasks}
    (planned / "play.yml").write_text(json.dumps([plan, play, plan, play]))
    words = (
        "-i",
        "inventory",
        "-e",
        f"plan_program={planned}/firstlight",
        "--limit",
        "gpu-1,gpu-2",
        "--tags",
        "wanted",
    )
    done = run(planned, "playbook", *words, "play.yml", collections=site)
    assert list(planned.glob(".local/state/firstlight/logs/*")), "its home is this folder"
    assert done.stdout.count("/opt/firstlight gpu-1") == 2, done.stdout
    assert "firstlight-error: it is off\nfirstlight-hint: start it" in done.stdout + done.stderr
    assert re.search(r"gpu-1 .*changed=0 .*failed=0", done.stdout)
    asked = f"stage --json --inventory {planned}/inventory --limit gpu-1,gpu-2\n"
    assert (planned / "asked").read_text() == asked


@pytest.mark.parametrize(
    ("line", "cause"),
    [("gpu-3 ansible_port=1 ansible_host=127.0.0.1", "cannot be reached"), ("gpu-3 firstlight_modle=x", "modle")],
)
def test_why_firstlight_did_not_stage_is_told(site: Path, planned: Path, line: str, cause: str) -> None:
    program(planned, f'#!/bin/sh\nPYTHONPATH={PLAYBOOKS.parent} exec {sys.executable} -m provision "$@"\n')
    (planned / "inventory").write_text(f"{line}\n")
    words = ("-i", "inventory", "-e", f"plan_program={planned}/firstlight", "-e", "plan_logs=kept")
    done = run(planned, "playbook", *words, "firstlight.kit.site", collections=site)
    assert done.returncode == 2, done.stdout
    assert re.search(rf"firstlight-error: .*{cause}.*\nfirstlight-hint: \S", done.stdout + done.stderr), done.stdout


@pytest.mark.parametrize(
    ("role", "lacking"),
    [
        ("base", "arguments: firstlight_owner, firstlight_prefix, firstlight_root"),
        ("environment", "arguments: firstlight_environment, firstlight_incoming, firstlight_prefix"),
        ("model", "'firstlight_prefix' is undefined"),
        ("service", "arguments: firstlight_environment, firstlight_prefix, firstlight_release, firstlight_service"),
    ],
)
def test_a_role_without_a_plan_names_what_it_lacks_and_the_role_that_sets_it(
    site: Path, planned: Path, role: str, lacking: str
) -> None:
    play = {"hosts": "gpu-1", "gather_facts": False, "roles": [{"role": f"firstlight.kit.{role}"}]}
    (planned / "play.yml").write_text(json.dumps([play]))
    done = run(planned, "playbook", "-i", "inventory", "play.yml", collections=site)
    assert lacking in done.stdout + done.stderr
    assert re.search(r"arg spec 'main' - .*plan.* before it", done.stdout), done.stdout


def test_amds_role_alone_names_the_systems_that_it_has_packages_for(site: Path, planned: Path) -> None:
    seen = {"distribution": "Debian", "distribution_version": "12", "architecture": "x86_64", "cacheable": True}
    roles = [{"role": "firstlight.kit.rocm"}]
    play = {"hosts": "gpu-1", "gather_facts": False, "pre_tasks": [{"ansible.builtin.set_fact": seen}], "roles": roles}
    (planned / "play.yml").write_text(json.dumps([play]))
    done = run(planned, "playbook", "-i", "inventory", "play.yml", "--check", collections=site)
    printed = done.stdout + done.stderr
    assert "firstlight-error: no packages of amdgpu are known for debian 12" in printed
    assert "known are ubuntu 22.04 x86_64, " in printed
    assert "debian 13" not in printed


def program(folder: Path, text: str) -> None:
    """Write `firstlight` for a site."""
    path = folder / "firstlight"
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.long(seconds=45)
def test_the_collection_passes_the_linter(site: Path) -> None:
    words = ("--offline", "--strict", "--profile", "production", "-c", os.devnull)
    # No repository of the product is public yet.
    ansible(
        site / "ansible_collections/firstlight/kit", "lint", *words, "-x", "galaxy[no-repository]", collections=site
    )


def test_the_collection_passes_the_sanity_tests_of_ansible(site: Path, tmp_path: Path) -> None:
    collection = tmp_path / "ansible_collections/firstlight/kit"
    shutil.copytree(site / "ansible_collections/firstlight/kit", collection)
    tests = [word for name in SANITY for word in ("--test", name)]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    ansible(collection, "test", "sanity", "--python", python, *tests, collections=tmp_path)


@pytest.mark.long(seconds=60)
def test_pylint_accepts_the_code_with_the_rules_of_ansible(site: Path) -> None:
    """With its file of rules: ansible-test itself downloads what it runs pylint in."""
    rules = str(files("ansible_test") / "_util/controller/sanity/pylint/config/collection.cfg")
    collection = site / "ansible_collections/firstlight/kit"
    code = sorted(map(str, collection.rglob("*.py")))
    assert len(code) > len(MODULES)
    done = run_tool(PYLINT, "pylint", "--rcfile", rules, "--score=n", *code)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long(seconds=10)
def test_antsibull_docs_accepts_its_documentation(site: Path) -> None:
    collection = str(site / "ansible_collections/firstlight/kit")
    strict = ("--plugin-docs", "--validate-collection-refs=all", "--disallow-unknown-collection-refs")
    done = run_tool(DOCS, "antsibull-docs", "lint-collection-docs", *strict, collection)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def run_tool(package: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program of a package that is not part of this environment."""
    command = [find_uv_bin(), "tool", "run", "--quiet", "--python", sys.executable, "--from", package, *words]
    path = f"{PROGRAMS}:{os.environ['PATH']}"
    return subprocess.run(
        command, env={**os.environ, "PATH": path, "NO_COLOR": "1"}, capture_output=True, text=True, check=False
    )


@pytest.mark.long(seconds=5)
def test_an_execution_environment_gets_the_collection(archive: Path, tmp_path: Path) -> None:
    """The image's build context, and the command that its build runs for the collection; no image is built."""
    definition, context = archive.with_name("execution-environment.yml"), tmp_path / "context"
    done = run_tool(BUILDER, *CREATE.split(), str(definition), "-c", str(context))
    assert done.returncode == 0, done.stdout + done.stderr
    words = ("collection", "install", "--offline", "-r", "requirements.yml", "-p", str(tmp_path))
    assert "firstlight.kit" in ansible(context / "_build", "galaxy", *words)


SITE = "/srv/ansible/inventory"
"""The inventory of a site, in the guide."""


def test_each_command_of_the_guide_is_accepted_by_ansible(archive: Path, tmp_path: Path) -> None:
    section = (
        GUIDE.read_text()
        .replace(SITE, "inventory")
        .partition("## Roles and modules as a collection")[2]
        .partition("\n## Not yet")[0]
    )
    plays = re.findall(r"as `(\w+\.yml)`:\n\n```yaml\n(.*?)```", section, re.DOTALL)
    assert len(plays) == section.count("```yaml")
    for name, play in plays:
        (tmp_path / name).write_text(play)
    # A group without hosts: what the roles do is tested on hosts (tests/fleet/test_collection.py).
    (tmp_path / "inventory").write_text("[gpu]\n")
    planned = tmp_path / "logs/latest/install/hosts.yml"
    planned.parent.mkdir(parents=True)
    planned.write_text("all: {hosts: {}}\n")
    written = "".join(re.findall(r"```sh\n(.*?)```", section, re.DOTALL)).splitlines()
    commands = [command for command in written if command.startswith("ansible-") and CREATE not in command]
    assert [command for command in written if command not in commands] == [
        ".venv/bin/python -m playbooks.collection build/collection",  # by the fixture
        "./firstlight stage -i inventory --limit gpu",  # on hosts
        f"{CREATE} build/collection/execution-environment.yml -c build/context",  # in the test of the image
    ]
    (tmp_path / "build").mkdir()
    (tmp_path / "build/collection").symlink_to(archive.parent)
    printed = [ansible(tmp_path, *shell_words(command.removeprefix("ansible-"), tmp_path)) for command in commands]
    assert "was installed successfully" in printed[0]
    assert len(printed) == 10


def shell_words(command: str, folder: Path) -> list[str]:
    """Return the words of a command, file names with `*` replaced by those that a shell finds in the folder."""
    words = shlex.split(command)
    return [found for word in words for found in (sorted(map(str, folder.glob(word))) if "*" in word else [word])]
