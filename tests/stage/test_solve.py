from __future__ import annotations

import hashlib
import re
import shutil
import socket
import sys
from pathlib import Path

import pytest

from provision.catalog.index.http_client import open_client
from provision.catalog.index.project_page import find_sources
from provision.catalog.index.settings import read_settings
from provision.catalog.index.uv import read_uv_locations, refusal
from provision.core.errors import StageError
from provision.phases.stage.download import fetch_all
from provision.phases.stage.solve import SolveRequest, Target, choose_wheels, solve
from provision.phases.stage.wheelhouse import Store
from tests.stage.site import Site, make_wheel

ARM = Target.of("aarch64-manylinux_2_35", "3.12")


@pytest.mark.usefixtures("bare_client")
def test_the_solution_is_for_the_hosts_platform_and_python_not_the_controllers(site: Site) -> None:
    for tag in (
        "cp312-cp312-manylinux_2_28_aarch64",
        "cp312-cp312-manylinux_2_28_x86_64",
        "cp311-cp311-manylinux_2_28_aarch64",
    ):
        site.add_wheel(
            *make_wheel(
                "native",
                requires=("on-arm; platform_machine == 'aarch64'", "on-intel; platform_machine == 'x86_64'"),
                tag=tag,
            )
        )
    site.add_wheel(*make_wheel("on-arm"))
    site.add_wheel(*make_wheel("on-intel"))
    chosen = choose_wheels(solve(SolveRequest(ARM, ("native",)), {"UV_DEFAULT_INDEX": f"{site.url}/simple"}), ARM)
    assert [file.name for file in chosen] == [
        "native-1.0-cp312-cp312-manylinux_2_28_aarch64.whl",
        "on_arm-1.0-py3-none-any.whl",
    ]


@pytest.mark.usefixtures("bare_client")
def test_a_pinned_distribution_comes_from_its_own_index_even_when_another_has_a_newer_one(
    site: Site, bare_client: Path
) -> None:
    site.add_wheel(*make_wheel("torch", "99.0"))
    site.add_wheel(*make_wheel("torch", "2.7.0"), index="vendor")
    site.add_wheel(*make_wheel("other", "1.0", requires=("torch",)))
    request = SolveRequest(ARM, ("torch", "other"), pins=(("torch", f"{site.url}/vendor"),))
    chosen = choose_wheels(solve(request, {"UV_DEFAULT_INDEX": f"{site.url}/simple"}), ARM)
    assert {(file.distribution, file.version) for file in chosen} == {("torch", "2.7.0"), ("other", "1.0")}


@pytest.mark.usefixtures("bare_client")
def test_a_hash_that_an_index_does_not_announce_is_computed_from_the_file(site: Site) -> None:
    for machine in ("aarch64", "x86_64"):
        site.add_wheel(*make_wheel("native", tag=f"cp38-abi3-manylinux_2_28_{machine}"))
    site.content["/simple/native/"] = re.sub(rb"#sha256=\w+", b"", site.content["/simple/native/"])
    (file,) = choose_wheels(solve(SolveRequest(ARM, ("native",)), {"UV_DEFAULT_INDEX": f"{site.url}/simple"}), ARM)
    assert file.sha256 == hashlib.sha256(site.content[f"/files/simple/{file.name}"]).hexdigest()


@pytest.mark.usefixtures("bare_client")
def test_the_users_torch_backend_does_not_override_the_plan(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_TORCH_BACKEND", "cu128")
    site.add_wheel(*make_wheel("torch", "2.7.0+cpu"), index="vendor")
    request = SolveRequest(ARM, ("torch==2.7.0+cpu",), pins=(("torch", f"{site.url}/vendor"),))
    (file,) = choose_wheels(solve(request, {"UV_DEFAULT_INDEX": f"{site.url}/simple"}), ARM)
    assert file.version == "2.7.0+cpu"


@pytest.mark.usefixtures("bare_client")
def test_excluded_distributions_are_neither_requested_nor_locked(site: Site) -> None:
    site.add_wheel(*make_wheel("server", requires=("triton", "needed")))
    site.add_wheel(*make_wheel("needed"))
    request = SolveRequest(ARM, ("server",), excluded=("triton",))
    chosen = choose_wheels(solve(request, {"UV_DEFAULT_INDEX": f"{site.url}/simple"}), ARM)
    assert [file.distribution for file in chosen] == ["needed", "server"]


@pytest.mark.usefixtures("bare_client")
def test_a_distribution_without_a_wheel_that_fits_is_refused_with_its_name(site: Site) -> None:
    site.add_wheel(*make_wheel("native", tag="cp312-cp312-manylinux_2_39_aarch64"))
    with pytest.raises(StageError, match="native"):
        choose_wheels(solve(SolveRequest(ARM, ("native",)), {"UV_DEFAULT_INDEX": f"{site.url}/simple"}), ARM)


@pytest.mark.usefixtures("bare_client")
def test_a_contradiction_is_reported_with_uvs_own_sentence(site: Site) -> None:
    site.add_wheel(*make_wheel("server", requires=("torch==2.7.0",)))
    site.add_wheel(*make_wheel("torch", "2.6.0"))
    with pytest.raises(
        StageError,
        match=r"^Because there is no version of torch==2\.7\.0 and all versions of server depend on torch==2\.7\.0",
    ):
        solve(SolveRequest(ARM, ("server==1.0",)), {"UV_DEFAULT_INDEX": f"{site.url}/simple"})


@pytest.mark.usefixtures("bare_client")
def test_an_index_that_does_not_answer_is_reported_without_credentials() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        index = f"http://user:s3cret@127.0.0.1:{unused.getsockname()[1]}/simple"
        with pytest.raises(StageError, match=r"Failed to fetch: .*/simple/server/: Connection refused") as caught:
            solve(SolveRequest(ARM, ("server",)), {"UV_DEFAULT_INDEX": index})
    assert "s3cret" not in caught.value.render()


@pytest.mark.usefixtures("bare_client")
def test_an_index_that_fails_is_reported_with_its_status(site: Site) -> None:
    site.faults.status["/simple/server/"] = [500] * 9
    with pytest.raises(StageError, match="500 Internal Server Error"):
        solve(SolveRequest(ARM, ("server",)), {"UV_DEFAULT_INDEX": f"{site.url}/simple"})


@pytest.mark.parametrize(
    ("stderr", "sentence"),
    [
        (
            "error: No solution found when resolving dependencies\n  cause: Because a==1 has no usable wheels and b\n      depends on a==1, it fails.\n\nhint: Wheels are required\n",
            "Because a==1 has no usable wheels and b depends on a==1, it fails.",
        ),
        (
            "warning: something old\nerror: Failed to fetch: https://u:p@h/simple/a/\n  cause: client error (Connect)\n  cause: Connection refused (os error 111)\n",
            "Failed to fetch: https://***@h/simple/a/: Connection refused (os error 111)",
        ),
        ("error: No such option\n", "No such option"),
        ("Segmentation fault\n", "Segmentation fault"),
        ("", "uv ended without a message"),
    ],
)
def test_uvs_message_becomes_one_line(stderr: str, sentence: str) -> None:
    assert refusal(stderr) == sentence


def test_the_locations_come_from_uv_so_that_its_own_files_count(bare_client: Path, tmp_path: Path) -> None:
    own = bare_client.parent.parent / "uv/uv.toml"
    own.parent.mkdir()
    own.write_text(
        f'find-links = ["{tmp_path}"]\n[[index]]\nurl = "https://mine.example/simple"\ndefault = true\n[[index]]\nurl = "https://more.example/simple"\n'
    )
    assert read_uv_locations({}) == (["https://mine.example/simple", "https://more.example/simple"], [str(tmp_path)])


def test_a_small_set_is_solved_and_fetched_through_the_users_own_settings(store: Store) -> None:
    """The only test that uses the network, with the client settings of this machine."""
    settings = read_settings()
    sources = find_sources(settings)
    target = Target.of("aarch64-manylinux_2_36", "{}.{}".format(*sys.version_info[:2]))
    try:
        pylock = solve(SolveRequest(target, ("markupsafe", "iniconfig")), sources.variables)
    except StageError as error:
        pytest.skip(f"the package index of this machine does not answer: {error.text}")
    chosen = choose_wheels(pylock, target)
    found = fetch_all(store, chosen, lambda: open_client(settings, sources.indexes))
    assert {path.name.split("-")[0] for path in found.values()} == {"markupsafe", "iniconfig"}
    assert any("aarch64" in path.name for path in found.values())
    shutil.rmtree(store.root)


@pytest.mark.usefixtures("bare_client")
def test_files_uploaded_after_the_day_are_excluded_except_pinned_builds(site: Site) -> None:
    site.add_wheel(*make_wheel("server", requires=("dependency",)), uploaded="2025-07-01T00:00:00Z")
    site.add_wheel(*make_wheel("dependency", "1.0"), uploaded="2025-06-17T23:00:00Z")
    site.add_wheel(*make_wheel("dependency", "2.0"), uploaded="2025-06-18T00:00:00Z")
    request = SolveRequest(ARM, ("server",), until="2025-06-17", undated=("server",))
    chosen = choose_wheels(solve(request, {"UV_DEFAULT_INDEX": f"{site.url}/simple"}), ARM)
    assert [(file.distribution, file.version) for file in chosen] == [("dependency", "1.0"), ("server", "1.0")]


@pytest.mark.usefixtures("bare_client")
def test_the_lines_of_a_settings_file_are_not_in_an_error(tmp_path: Path, site: Site) -> None:
    file = tmp_path / "shadow"
    file.write_text("root:$y$canary:19000::\n")
    with pytest.raises(StageError, match="TOML parse error at line 1") as caught:
        solve(SolveRequest(ARM, ("server",)), {"UV_DEFAULT_INDEX": f"{site.url}/simple", "UV_CONFIG_FILE": str(file)})
    assert "canary" not in caught.value.render()
