"""Files that settings name: their content appears in no error, because the setting may name the wrong file."""

import subprocess
from pathlib import Path

import paramiko
import pytest

from provision.core.errors import RemoteCommandError
from provision.core.models.inventory import Connection
from provision.fleet.ssh.authentication import Login
from provision.fleet.ssh.sudo import become_password

CONTENTS = (b"root:canary:19000::\nbin:canary::\n", b"canary", b"canary\xff\xfe", b"")


@pytest.mark.parametrize("content", CONTENTS)
def test_a_file_without_a_key_is_named_without_its_content(tmp_path: Path, content: bytes) -> None:
    key, public = tmp_path / "key", tmp_path / "other.pub"
    key.write_bytes(content)
    public.write_bytes(content)
    login = Login(
        Connection(kind="ssh", address="h", user="u", identity_files=(str(key), str(public)), identity_agent="none")
    )
    list(login.get_sources())
    login._public_halves()
    assert f"{key} cannot be read: it holds no key that OpenSSH would read" in login.notes
    assert "canary" not in " ".join(login.notes)


@pytest.mark.parametrize("content", [None, "canary"])
def test_a_key_is_tried_without_a_certificate_that_cannot_be_read(tmp_path: Path, content: str | None) -> None:
    key, certificate = tmp_path / "key", tmp_path / "key-of-site-cert.pub"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    if content:
        certificate.write_text(content)
    connection = Connection(kind="ssh", address="h", user="u", identity_agent="none")
    named = {"identity_files": (str(key),), "certificate_files": (str(certificate),)}
    login = Login(connection.model_copy(update=named))
    list(login.get_sources())
    assert login.tried == [str(key)]
    assert login.notes == [f"{certificate} cannot be read: it holds no key that OpenSSH would read"] * bool(content)


def test_a_named_key_with_a_passphrase_is_the_first_of_an_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "words words", "-f", str(key)], check=True)
    held = [paramiko.RSAKey.generate(1024), paramiko.Ed25519Key.from_private_key_file(str(key), "words words")]
    monkeypatch.setattr(Login, "_agent_keys", lambda _: held)
    login = Login(Connection(kind="ssh", address="h", user="u", identity_files=(str(key),)))
    next(login.get_sources())
    assert login.tried == ["ssh-ed25519 of the agent"]


def test_a_sudo_password_is_the_first_line_and_an_error_has_no_text_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    connection = Connection(kind="local", become_password_file=str(file))
    file.write_text("first line\nsecond\n")
    assert become_password(connection) == "first line"
    file.write_bytes(b"canary\xff")
    with pytest.raises(RemoteCommandError, match="it is no text") as caught:
        become_password(connection)
    assert "canary" not in caught.value.render()


def test_a_program_that_prints_the_sudo_password_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("#!/bin/sh\nset -e\n")
    file.chmod(0o700)
    with pytest.raises(RemoteCommandError, match=f"{file} is executable") as caught:
        become_password(Connection(kind="local", become_password_file=str(file)))
    assert "--ask-become-pass" in caught.value.render()
