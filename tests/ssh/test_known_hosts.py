"""Known hosts as OpenSSH reads and writes them, compared with ssh-keygen."""

import base64
import subprocess
from pathlib import Path

import pytest

from provision.core.errors import HostKeyError
from provision.core.models.inventory import Connection
from provision.fleet.ssh.host_keys import (
    KnownKey,
    add_known_key,
    check_host_key,
    fingerprint,
    keys_of,
    name_of,
    preferred_kinds,
)


def known_keys(files: list[str], name: str) -> list[KnownKey]:
    return keys_of(Connection(kind="ssh", host_key_alias=name, known_hosts_files=tuple(files)))


def known_as(address: str, port: int, alias: str | None) -> str:
    return name_of(Connection(kind="ssh", address=address, port=port, host_key_alias=alias))


def key(folder: Path, name: str, kind: str = "ed25519") -> tuple[str, bytes]:
    """Kind and content of a new public key."""
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(folder / name)], check=True)
    words = (folder / f"{name}.pub").read_text().split()
    return words[0], base64.b64decode(words[1])


def line(names: str, kind: str, blob: bytes, marker: str = "") -> str:
    return f"{marker} {names} {kind} {base64.b64encode(blob).decode()} comment\n".lstrip()


@pytest.mark.parametrize(
    ("patterns", "name", "expected"),
    [
        ("gpu-1", "gpu-1", True),
        ("GPU-1", "gpu-1", True),
        ("gpu-1,192.0.2.1", "192.0.2.1", True),
        ("*.example.org", "gpu.example.org", True),
        ("*.example.org,!bad.example.org", "bad.example.org", False),
        ("gpu-?", "gpu-12", False),
        ("[gpu-1]:2222", "[gpu-1]:2222", True),
        ("[gpu-1]:2222", "gpu-1", False),
        ("gpu-1", "[gpu-1]:2222", False),
        ("[2001:db8::1]:22", "[2001:db8::1]:22", True),
    ],
)
def test_patterns(tmp_path: Path, patterns: str, name: str, expected: bool) -> None:
    (tmp_path / "known").write_text("# a comment\n\nbroken line\n" + line(patterns, "ssh-ed25519", b"blob"))
    found = known_keys([str(tmp_path / "known"), str(tmp_path / "none")], name)
    assert [one.line for one in found] == ([4] if expected else [])


def test_names_that_ssh_keygen_hashed_are_found(tmp_path: Path) -> None:
    kind, blob = key(tmp_path, "host")
    file = tmp_path / "known"
    file.write_text(line("gpu-1", kind, blob) + line("[gpu-2]:2222", kind, blob))
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(file)], check=True, capture_output=True)
    assert "gpu" not in file.read_text()
    assert [one.blob for one in known_keys([str(file)], "gpu-1")] == [blob]
    assert [one.line for one in known_keys([str(file)], "[gpu-2]:2222")] == [2]
    assert known_keys([str(file)], "gpu-2") == []


@pytest.mark.parametrize("hashed", [True, False])
def test_openssh_finds_a_stored_key(tmp_path: Path, hashed: bool) -> None:
    kind, blob = key(tmp_path, "host")
    file = tmp_path / "new/known"
    add_known_key(str(file), "first", kind, blob, hashed=hashed)
    file.write_text(file.read_text().rstrip("\n"))  # a last line without its end
    add_known_key(str(file), "[gpu-1]:2222", kind, blob, hashed=hashed)
    for name in ("first", "[gpu-1]:2222"):
        assert (
            subprocess.run(["ssh-keygen", "-F", name, "-f", str(file)], capture_output=True, check=False).returncode
            == 0
        )


def test_fingerprints_equal_those_of_openssh(tmp_path: Path) -> None:
    _, blob = key(tmp_path, "host")
    output = subprocess.run(
        ["ssh-keygen", "-lf", str(tmp_path / "host.pub")], capture_output=True, text=True, check=True
    ).stdout
    assert fingerprint(blob) == output.split()[1]


def test_any_file_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "known").write_bytes(
        bytes(range(256)) * 20 + b"\ngpu-1 ssh-ed25519 not-base64!\n@other gpu-1 x YQ==\ngpu-1\n"
    )
    assert known_keys([str(tmp_path / "known"), str(tmp_path)], "gpu-1") == []


def test_the_name_asked_for() -> None:
    assert known_as("GPU-1", 22, None) == "gpu-1"
    assert known_as("gpu-1", 2222, None) == "[gpu-1]:2222"
    assert known_as("gpu-1", 2222, "Alias") == "Alias"


def test_at_another_port_a_key_known_without_the_port_is_accepted_but_no_other(tmp_path: Path) -> None:
    file = tmp_path / "known"
    file.write_text(line("gpu-1", "ssh-ed25519", b"old"))
    check(host(file, port=2222), "ssh-ed25519", b"old")
    with pytest.raises(HostKeyError, match="is not known"):
        check(host(file, port=2222), "ssh-ed25519", b"new")
    with pytest.raises(HostKeyError, match="is not known"):
        check(host(file, port=2222, host_key_alias="other"), "ssh-ed25519", b"old")
    file.write_text(file.read_text() + line("gpu-1", "ssh-ed25519", b"old", "@revoked"))
    with pytest.raises(HostKeyError, match="is revoked"):
        check(host(file, port=2222), "ssh-ed25519", b"old")


def host(file: Path, **changes: object) -> Connection:
    return Connection(kind="ssh", address="gpu-1", known_hosts_files=(str(file),)).model_copy(update=changes)


def check(connection: Connection, kind: str, blob: bytes) -> None:
    check_host_key("gpu-1", connection, keys_of(connection), kind, blob)


def test_a_key_of_another_kind_than_the_known_one_is_a_change(tmp_path: Path) -> None:
    kind, blob = key(tmp_path, "old")
    other_kind, other = key(tmp_path, "new", "ecdsa")
    (tmp_path / "known").write_text(line("gpu-1", kind, blob))
    check(host(tmp_path / "known"), kind, blob)
    with pytest.raises(HostKeyError, match="has CHANGED"):
        check(host(tmp_path / "known"), other_kind, other)


def test_known_kinds_are_requested_first(tmp_path: Path) -> None:
    (tmp_path / "known").write_text(
        line("gpu-1", "ssh-rsa", b"r") + line("gpu-1", "ssh-ed25519", b"e") + line("*", "x", b"c", "@cert-authority")
    )
    assert preferred_kinds(keys_of(host(tmp_path / "known"))) == ["rsa-sha2-512", "rsa-sha2-256", "ssh-ed25519"]


def test_a_revoked_key_is_refused_even_where_it_is_also_listed(tmp_path: Path) -> None:
    (tmp_path / "known").write_text(line("gpu-1", "ssh-ed25519", b"k") + line("*", "ssh-ed25519", b"k", "@revoked"))
    with pytest.raises(HostKeyError, match=r"is revoked in .*known, line 2"):
        check(host(tmp_path / "known"), "ssh-ed25519", b"k")


def test_a_host_known_only_by_an_authority_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "known").write_text(line("gpu-*", "ssh-ed25519", b"ca", "@cert-authority"))
    for accept in (False, True):
        with pytest.raises(HostKeyError, match="known only through a certificate authority"):
            check(host(tmp_path / "known", accept_new_host_keys=accept), "ssh-ed25519", b"k")


def test_accept_new_never_covers_a_change(tmp_path: Path) -> None:
    connection = host(tmp_path / "known", accept_new_host_keys=True)
    check(connection, "ssh-ed25519", b"first")
    check(connection, "ssh-ed25519", b"first")
    with pytest.raises(HostKeyError, match="has CHANGED"):
        check(connection, "ssh-ed25519", b"second")
    assert len((tmp_path / "known").read_text().splitlines()) == 1


def test_lines_by_name_and_by_pattern_keep_the_order_of_the_file(tmp_path: Path) -> None:
    names = ("gpu-1", "*", "GPU-1,other", "gpu-2,gpu-1,gpu-1", "gpu-1,!gpu-1", "gpu-[1]", "gpu-1")
    file = tmp_path / "known"
    file.write_text("".join(line(one, "ssh-ed25519", b"blob") for one in names))
    assert [one.line for one in known_keys([str(file)], "gpu-1")] == [1, 2, 3, 4, 7]
    with file.open("a") as more:
        more.write(line("gpu-1", "ssh-ed25519", b"new"))
    assert known_keys([str(file)], "gpu-1")[-1].blob == b"new"
