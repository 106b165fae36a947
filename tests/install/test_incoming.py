"""Files that Ansible sends to the incoming folder of a host: by the playbook of the checkout, over a local connection."""

import os
import re
import sys
from pathlib import Path

import pytest
import yaml

from tests.install.modules import PLAYBOOKS
from tests.install.scripts import run_ansible

pytestmark = pytest.mark.slow
NAMES = ("torch.whl", "uv", "pooling/config.json")


class Sender:
    """A host that is this machine, and the files that a run staged for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.incoming, self.made = folder / f"firstlight-{os.getuid()}", folder / "made"
        (folder / "cache").mkdir()
        files = []
        for number, name in enumerate(NAMES):
            path = folder / "cache" / str(number)
            path.write_text(name)
            path.chmod(0o444)
            files.append({"name": name, "path": str(path), "size": len(name), "makes": str(self.made)})
        variables = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "firstlight_prefix": str(folder / "prefix"),
            "firstlight_release": {},
            "firstlight_incoming": str(self.incoming),
            "firstlight_files": files,
        }
        (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"gpu-1": variables}}}))

    def __call__(self, *words: str) -> str:
        """Run the playbook, and return what it printed."""
        play = ("-i", self.folder / "hosts.yml", PLAYBOOKS / "send.yml")
        done = run_ansible("ansible-playbook", *play, *words, cwd=PLAYBOOKS.parent)
        return done.stdout + done.stderr

    @property
    def there(self) -> dict[str, str]:
        """The files of the incoming folder, and their texts."""
        paths = [path for path in self.incoming.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.incoming)): path.read_text() for path in paths}


def test_a_host_gets_the_files_that_it_lacks_and_whole(tmp_path: Path) -> None:
    send = Sender(tmp_path)
    assert re.search(r"changed=1 .*failed=0", send("--check"))
    assert not send.incoming.exists()
    assert re.search(r"changed=1 .*failed=0", send())
    assert send.there == {name: name for name in NAMES}
    assert (send.incoming.stat().st_mode & 0o777, (send.incoming / "pooling").stat().st_mode & 0o777) == (0o700, 0o700)
    assert "changed=0" in send()
    (send.incoming / "uv").unlink()
    (send.incoming / "uv").write_text("u")
    (send.incoming / "uv").chmod(0o444)
    sent = send("-v")
    assert '"lacking": ["uv"]' in sent, sent
    assert send.there == {name: name for name in NAMES}


def test_a_host_where_the_files_were_used_gets_none(tmp_path: Path) -> None:
    send = Sender(tmp_path)
    send.made.touch()
    assert "changed=0" in send()
    assert not send.incoming.exists()


def test_a_folder_that_somebody_else_made_is_refused(tmp_path: Path) -> None:
    send = Sender(tmp_path)
    (tmp_path / "theirs").mkdir()
    send.incoming.symlink_to("theirs")
    sent = send()
    assert "does not belong to the login user" in sent
    assert "remove it if nobody needs what is in it" in sent
    assert send.there == {}


def test_a_file_that_the_controller_has_no_more_is_named(tmp_path: Path) -> None:
    send = Sender(tmp_path)
    (tmp_path / "cache" / "1").unlink()
    assert f"{tmp_path}/cache/1" in send()
