import hashlib
import re
from pathlib import Path
from typing import Any

import pytest

from provision.catalog.index.settings import ClientSettings, read_settings
from provision.catalog.index.uv import read_uv_locations, refusal
from provision.core.errors import StageError
from provision.phases.stage.solve import LockedWheel, SolveRequest, Target, choose_wheels, solve
from tests.stage.site import Site, make_wheel

pytestmark = pytest.mark.usefixtures("bare_client")

ARM = Target.of("aarch64-manylinux_2_35", "3.12")


def solved(index: str, *requirements: str, **options: Any) -> list[LockedWheel]:
    """Solve for the host with this main index, and choose the wheels."""
    request = SolveRequest(ARM, requirements, **options)
    return choose_wheels(solve(request, {"UV_DEFAULT_INDEX": index}), ARM)


@pytest.fixture
def index(site: Site) -> str:
    return f"{site.url}/simple"


def test_the_solution_is_for_the_hosts_platform_and_python_not_the_controllers(site: Site, index: str) -> None:
    needs = ("on-arm; platform_machine == 'aarch64'", "on-intel; platform_machine == 'x86_64'")
    for build in ("cp312-cp312-{}_aarch64", "cp312-cp312-{}_x86_64", "cp311-cp311-{}_aarch64"):
        site.add_wheel(*make_wheel("native", requires=needs, tag=build.format("manylinux_2_28")))
    site.add_wheel(*make_wheel("on-arm"))
    site.add_wheel(*make_wheel("on-intel"))
    assert [file.name for file in solved(index, "native")] == [
        "native-1.0-cp312-cp312-manylinux_2_28_aarch64.whl",
        "on_arm-1.0-py3-none-any.whl",
    ]


def test_a_pinned_distribution_comes_from_its_own_index_even_when_another_has_a_newer_one(
    site: Site, index: str
) -> None:
    site.add_wheel(*make_wheel("torch", "99.0"))
    site.add_wheel(*make_wheel("torch", "2.7.0"), index="vendor")
    site.add_wheel(*make_wheel("other", "1.0", requires=("torch",)))
    chosen = solved(index, "torch", "other", pins=(("torch", f"{site.url}/vendor"),))
    assert {(file.distribution, file.version) for file in chosen} == {("torch", "2.7.0"), ("other", "1.0")}


def test_a_hash_that_an_index_does_not_announce_is_computed_from_the_file(site: Site, index: str) -> None:
    for machine in ("aarch64", "x86_64"):
        site.add_wheel(*make_wheel("native", tag=f"cp38-abi3-manylinux_2_28_{machine}"))
    site.content["/simple/native/"] = re.sub(rb"#sha256=\w+", b"", site.content["/simple/native/"])
    (file,) = solved(index, "native")
    assert file.sha256 == hashlib.sha256(site.content[f"/files/simple/{file.name}"]).hexdigest()


def test_the_users_torch_backend_does_not_override_the_plan(
    site: Site, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_TORCH_BACKEND", "cu128")
    site.add_wheel(*make_wheel("torch", "2.7.0+cpu"), index="vendor")
    (file,) = solved(index, "torch==2.7.0+cpu", pins=(("torch", f"{site.url}/vendor"),))
    assert file.version == "2.7.0+cpu"


def test_excluded_distributions_are_neither_requested_nor_locked(site: Site, index: str) -> None:
    site.add_wheel(*make_wheel("server", requires=("triton", "needed")))
    site.add_wheel(*make_wheel("needed"))
    chosen = solved(index, "server", excluded=("triton",))
    assert [file.distribution for file in chosen] == ["needed", "server"]


def test_a_contradiction_is_reported_with_uvs_own_sentence(site: Site, index: str) -> None:
    site.add_wheel(*make_wheel("server", requires=("torch==2.7.0",)))
    site.add_wheel(*make_wheel("torch", "2.6.0"))
    said = "Because there is no version of torch==2.7.0 and all versions of server depend on torch==2.7.0"
    with pytest.raises(StageError, match=f"^{re.escape(said)}"):
        solved(index, "server==1.0")


def test_an_index_that_does_not_answer_is_reported_without_credentials(silent: str) -> None:
    with pytest.raises(StageError, match=r"Failed to fetch: .*/cpu/server/: Connection refused") as caught:
        solved(silent.replace("://", "://user:s3cret@"), "server")
    assert "s3cret" not in caught.value.render()


def test_files_uploaded_after_the_day_are_excluded_except_pinned_builds(site: Site, index: str) -> None:
    site.add_wheel(*make_wheel("server", requires=("dependency",)), uploaded="2025-07-01T00:00:00Z")
    site.add_wheel(*make_wheel("dependency", "1.0"), uploaded="2025-06-17T23:00:00Z")
    site.add_wheel(*make_wheel("dependency", "2.0"), uploaded="2025-06-18T00:00:00Z")
    chosen = solved(index, "server", until="2025-06-17", undated=("server",))
    assert [(file.distribution, file.version) for file in chosen] == [("dependency", "1.0"), ("server", "1.0")]


def test_the_lines_of_a_settings_file_are_not_in_an_error(tmp_path: Path, index: str) -> None:
    file = tmp_path / "shadow"
    file.write_text("root:$y$canary:19000::\n")
    with pytest.raises(StageError, match="TOML parse error at line 1") as caught:
        solve(SolveRequest(ARM, ("server",)), {"UV_DEFAULT_INDEX": index, "UV_CONFIG_FILE": str(file)})
    assert "canary" not in caught.value.render()


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
    found = ["https://mine.example/simple", "https://more.example/simple"], [str(tmp_path)]
    assert read_uv_locations(ClientSettings()) == found


def test_an_index_with_a_name_has_the_login_of_its_variables(
    bare_client: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = bare_client.parent.parent / "uv/uv.toml"
    own.parent.mkdir()
    own.write_text(
        '[[index]]\nname = "my-corp.2"\nurl = "https://old@mine.example/simple"\n[[index]]\nurl = "https://plain.example/simple"\n'
    )
    for name, value in {
        "UV_INDEX": "more=https://more.example/simple/ https://query.example/simple?more=1",
        "UV_DEFAULT_INDEX": "main=https://main.example/simple",
        "UV_INDEX_MY_CORP_2_USERNAME": "me",
        "UV_INDEX_MY_CORP_2_PASSWORD": "p@/ss",
        "UV_INDEX_MORE_USERNAME": "token",
    }.items():
        monkeypatch.setenv(name, value)
    indexes, _ = read_uv_locations(read_settings())
    assert indexes == [
        "https://main.example/simple",
        "https://token:@more.example/simple/",
        "https://query.example/simple?more=1",
        "https://me:p%40%2Fss@mine.example/simple",
        "https://plain.example/simple",
    ]
