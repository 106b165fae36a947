import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision import __main__ as program
from provision.catalog.index.http_client import open_client
from provision.catalog.index.project_page import find_sources
from provision.catalog.index.settings import ClientSettings, read_settings, uv_variables, without_credentials
from provision.catalog.index.uv import run_uv
from provision.core.errors import StageError
from provision.phases.stage.download import fetch_all
from provision.phases.stage.solve import SolveRequest, Target, choose_wheels, solve
from provision.phases.stage.wheelhouse import Store
from tests.stage.site import Site

MAIN, FIRST, SECOND = "https://main.example/simple", "https://first.example/simple", "https://second.example/simple"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_pips_file_is_read_with_multi_line_lists_and_section_install_before_global(tmp_path: Path) -> None:
    file = write(
        tmp_path / "pip.conf",
        f"[global]\nindex-url = https://other.example/simple\nextra-index-url =\n    {FIRST}\n    {SECOND}\nfind-links = /wheels\n"
        f"cert = /ca.pem\nproxy = http://proxy.example:3128\ntrusted-host = main.example\n[install]\nindex-url = {MAIN}\n",
    )
    settings = read_settings({}, pip_files=[file], uv_files=[])
    assert settings == ClientSettings(
        index=MAIN,
        extra_indexes=(FIRST, SECOND),
        find_links=("/wheels",),
        certificate="/ca.pem",
        proxy="http://proxy.example:3128",
        insecure_hosts=("main.example",),
    )


def test_variables_override_files_and_later_files_override_earlier_ones(tmp_path: Path) -> None:
    system = write(
        tmp_path / "system.conf", "[global]\nindex-url = https://system.example/simple\ncert = /system.pem\n"
    )
    user = write(tmp_path / "user.conf", "[global]\nindex-url = https://user.example/simple\n")
    files = [system, user]
    assert read_settings({}, pip_files=files, uv_files=[]).index == "https://user.example/simple"
    settings = read_settings({"PIP_INDEX_URL": MAIN}, pip_files=files, uv_files=[])
    assert (settings.index, settings.certificate) == (MAIN, "/system.pem")


def test_uvs_variable_for_indexes_replaces_pips_indexes_and_keeps_its_find_links(tmp_path: Path) -> None:
    file = write(
        tmp_path / "pip.conf", f"[global]\nindex-url = {MAIN}\nextra-index-url = {FIRST}\nfind-links = /wheels\n"
    )
    settings = read_settings({"UV_INDEX": SECOND}, pip_files=[file], uv_files=[])
    assert uv_variables(settings, default_index=MAIN) == {"UV_FIND_LINKS": "/wheels"}


def test_a_uv_toml_with_an_index_replaces_pips_indexes(tmp_path: Path) -> None:
    pip = write(tmp_path / "pip.conf", f"[global]\nindex-url = {MAIN}\nfind-links = /wheels\n")
    own = write(tmp_path / "uv.toml", f'find-links = ["/mine"]\n[[index]]\nurl = "{SECOND}"\n')
    assert uv_variables(read_settings({}, pip_files=[pip], uv_files=[own]), default_index=MAIN) == {}


def test_the_main_index_comes_before_extra_ones_because_uv_uses_the_first_with_a_package() -> None:
    variables = uv_variables(ClientSettings(extra_indexes=(FIRST, SECOND)), default_index=MAIN)
    assert variables == {"UV_INDEX": f"{MAIN} {FIRST}", "UV_DEFAULT_INDEX": SECOND}


def test_without_settings_uv_gets_no_variables(tmp_path: Path) -> None:
    assert uv_variables(read_settings({}, pip_files=[tmp_path / "absent"], uv_files=[]), default_index=MAIN) == {}


def test_proxy_certificate_and_no_index_become_uvs_variables() -> None:
    settings = ClientSettings(
        proxy="http://proxy.example:3128", certificate="/ca.pem", no_index=True, insecure_hosts=("a", "b")
    )
    assert uv_variables(settings, default_index=MAIN) == {
        "UV_NO_INDEX": "1",
        "SSL_CERT_FILE": "/ca.pem",
        "ALL_PROXY": "http://proxy.example:3128",
        "HTTPS_PROXY": "http://proxy.example:3128",
        "HTTP_PROXY": "http://proxy.example:3128",
        "UV_INSECURE_HOST": "a b",
    }


def test_a_malformed_file_of_pip_is_ignored(tmp_path: Path) -> None:
    bad = write(tmp_path / "bad.conf", "index-url = no section\n")
    good = write(tmp_path / "good.conf", f"[global]\nindex-url = {MAIN}\n")
    assert read_settings({}, pip_files=[good, bad], uv_files=[]).index == MAIN


def test_the_digest_changes_with_a_setting_and_not_with_uvs_cache_folder(tmp_path: Path) -> None:
    plain = read_settings({}, pip_files=[], uv_files=[])
    assert read_settings({"UV_CACHE_DIR": str(tmp_path)}, pip_files=[], uv_files=[]).digest() == plain.digest()
    assert read_settings({"UV_EXCLUDE_NEWER": "2026-01-01"}, pip_files=[], uv_files=[]).digest() != plain.digest()


def test_the_digest_stays_with_another_way_to_the_same_files(tmp_path: Path) -> None:
    def digest(text: str = f"index-url = {MAIN}", uv: str = "", **variables: str) -> str:
        files = [write(tmp_path / "pip.conf", f"[global]\n{text}\n")]
        return read_settings(variables, pip_files=files, uv_files=[write(tmp_path / "uv.toml", uv)]).digest()

    with_login = MAIN.replace("://", "://ada:token-{}@")
    assert digest(f"index-url = {with_login.format(1)}") == digest(f"index-url = {with_login.format(2)}")
    assert digest(f"index-url = {MAIN}\nproxy = proxy.example:3128\ncert = /ca.pem\ntrusted-host = a") == digest()
    assert digest(UV_INDEX_CORP_PASSWORD="new", UV_TOOL_DIR="/tools", UV_KEYRING_PROVIDER="subprocess") == digest()
    assert digest(UV_INDEX=with_login.format(1)) == digest(UV_INDEX=with_login.format(2)) != digest(UV_INDEX=MAIN + "x")
    rows = [f"[[index]]\nurl = '{with_login.format(number)}'\n" for number in (1, 2)]
    assert digest(uv=rows[0]) == digest(uv=rows[1]) != digest()
    assert digest("index-url = https://other.example/simple") != digest()


word = st.text("abcdefgXYZ0123456789._~-%", min_size=3, max_size=20)


@given(user=word, password=st.text("abc09:@%", min_size=3), host=st.from_regex(r"[a-z]{3,10}\.example", fullmatch=True))
def test_no_credential_survives_redaction(user: str, password: str, host: str) -> None:
    shown = without_credentials(f"error: Failed to fetch: `https://{user}:{password}@{host}/simple/torch/`")
    assert shown == f"error: Failed to fetch: `https://***@{host}/simple/torch/`"


@pytest.mark.usefixtures("bare_client")
def test_requests_to_a_trusted_host_pass_through_the_proxy_of_the_environment(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ClientSettings(insecure_hosts=("127.0.0.2:1",))
    monkeypatch.setenv("ALL_PROXY", site.url.removeprefix("http://"))
    with open_client(settings) as client, pytest.raises(httpx.ProxyError):
        client.get("https://127.0.0.2:1/simple")
    monkeypatch.setenv("NO_PROXY", "127.0.0.2")
    with open_client(settings) as client, pytest.raises(httpx.ConnectError):
        client.get("https://127.0.0.2:1/simple")


def test_with_pips_no_index_uv_asks_no_index(tmp_path: Path) -> None:
    pip = write(tmp_path / "pip.conf", "[global]\nno-index = true\n")
    variables = uv_variables(read_settings({}, pip_files=[pip], uv_files=[]), default_index=MAIN)
    wanted = write(tmp_path / "wanted.in", "six\n")
    with pytest.raises(StageError, match="six was not found in the provided package locations"):
        run_uv(["pip", "compile", "--quiet", str(wanted)], tmp_path, variables)


@pytest.mark.parametrize(
    ("named", "expected"),
    [({}, "true"), ({"SSL_CERT_FILE": "/ca.pem"}, None), ({"UV_SYSTEM_CERTS": "false"}, "false")],
    ids=["nothing", "a file", "uv's own"],
)
def test_uv_trusts_the_certificates_of_the_system_without_the_launcher_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: dict[str, str], expected: str | None
) -> None:
    monkeypatch.setattr(program, "main", lambda: None)
    monkeypatch.setattr(program, "gc", SimpleNamespace(set_threshold=lambda _: None))
    monkeypatch.setattr(program, "CERTIFICATES", (write(tmp_path / "ca.crt", ""), tmp_path / "absent"))
    monkeypatch.setattr(os, "environ", {**named})
    program.run()
    assert os.environ.get("UV_SYSTEM_CERTS") == expected


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
