"""One ansible-playbook, run through ansible-runner in a private folder that is gone afterwards."""

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from provision.core.errors import InstallError
from provision.core.folders import product_path
from provision.core.redaction import redact
from verify.printable import printable

PLAYBOOKS = product_path("playbooks")
GRACE_S = 15.0
"""How long Ansible may take to end its tasks in order before it is killed."""
POLL_S = 0.5
"""How often a silent playbook is looked after."""


class Cancellation:
    """Ends a playbook in order: Ansible is asked first, and killed only when it does not end."""

    def __init__(self, wanted: Callable[[], bool]) -> None:
        self._wanted = wanted
        self._asked_at: float | None = None
        self.pid: int | None = None

    @property
    def happened(self) -> bool:
        return self._asked_at is not None

    def must_kill(self) -> bool:
        """Asked by the runner again and again; true ends the whole process group by force."""
        if self._asked_at is None:
            if not self._wanted():
                return False
            self._asked_at = time.monotonic()
            if self.pid is None:
                return True
            os.kill(self.pid, signal.SIGTERM)
        return time.monotonic() - self._asked_at > GRACE_S


def ansible_playbook() -> str:
    """The program of our own environment, never another one that happens to be in PATH.

    Raises InstallError when it is not there.
    """
    path = Path(sys.executable).with_name("ansible-playbook")
    if not path.exists():
        raise InstallError(
            f"{path} does not exist: this Python environment is not complete",
            hint="./firstlight self-check names what is missing",
        )
    return str(path)


def run_playbook(
    name: str,
    inventories: Sequence[Path],
    *,
    tags: Sequence[str] = (),
    hosts: int,
    scratch: Path,
    log: Path,
    on_event: Callable[[dict[str, Any]], None],
    cancellation: Cancellation,
) -> str:
    """Run playbooks/NAME.yml, or only its tasks with one of the tags; every event goes to `on_event`, all output to the end of the file `log`.

    Returns the last lines of the output and the exit code, for the case that an event is missing.
    """
    from ansible_runner.config.runner import RunnerConfig
    from ansible_runner.runner import Runner

    settings = ansible_settings(scratch=scratch, hosts=hosts)
    config = RunnerConfig(
        private_data_dir=str(scratch),
        project_dir=str(PLAYBOOKS),
        ident="run",
        playbook=str(PLAYBOOKS / f"{name}.yml"),
        inventory=[str(path) for path in inventories],
        tags=",".join(tags) or None,
        quiet=True,
        suppress_ansible_output=True,
        suppress_env_files=True,
        settings={"pexpect_timeout": POLL_S},
    )
    config.prepare()
    config.command[0] = ansible_playbook()
    # The runner adds its callback plugin and folders to a copy of the caller's environment.
    added = {name: value for name, value in config.env.items() if os.environ.get(name) != value}
    config.env = {**added, **{name: os.environ[name] for name in KEPT if name in os.environ}, **settings}

    def handle(event: dict[str, Any]) -> bool:
        cancellation.pid = event.get("pid") or cancellation.pid
        on_event(event)
        return False  # the record is ours to write, without the modules' arguments

    runner = Runner(config, event_handler=handle, cancel_callback=cancellation.must_kill)
    runner.run()
    output = Path(config.artifact_dir) / "stdout"
    said = output.read_text(encoding="utf-8", errors="replace") if output.exists() else ""
    text = redact(printable(said))
    # A run has several playbooks: what the last one says must not hide where another failed.
    with log.open("a", encoding="utf-8") as file:
        file.write(f"# playbooks/{name}.yml\n{text}\n")
    shutil.rmtree(config.artifact_dir, ignore_errors=True)
    tail = " / ".join(line.strip() for line in text.splitlines()[-3:] if line.strip())
    return f"ansible-playbook ended with code {runner.rc}: {tail}"


FORKS_AT_MOST = 32

CONFIG = Path(__file__).with_name("ansible.cfg")
"""Named, so that Ansible searches no ansible.cfg of the user."""

KEPT = (
    *("HOME", "USER", "LOGNAME", "PATH", "SSH_AUTH_SOCK", "TMPDIR", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"),
    *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
)
"""The only variables of the caller that are passed on, so that a playbook gets no tokens and keys."""


def ansible_settings(*, scratch: Path, hosts: int) -> dict[str, str]:
    """Return the variables of one run. `scratch` is private and has a short path, since a control socket's path is limited to about 100 bytes."""
    return {
        "ANSIBLE_CONFIG": str(CONFIG),
        "ANSIBLE_HOME": str(scratch / "home"),
        "ANSIBLE_LOCAL_TEMP": str(scratch / "tmp"),
        "ANSIBLE_ROLES_PATH": str(PLAYBOOKS / "roles"),
        "ANSIBLE_FORKS": str(max(1, min(hosts, FORKS_AT_MOST))),
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(scratch / "cp"),
        # The runner has other values for these two, as variables, which come before ansible.cfg.
        "ANSIBLE_HOST_KEY_CHECKING": "True",
        "ANSIBLE_CACHE_PLUGIN": "memory",
        # The runner's callback wraps this one; else it would wrap the user's.
        "ORIGINAL_STDOUT_CALLBACK": "default",
        "LC_ALL": "C.UTF-8",
    }


HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def remembered_signals() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether one of the signals arrived that are not ignored; always false outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came = threading.Event()
    heard = [number for number in HANDLED if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda *_: came.set()) for number in heard}
    try:
        yield came.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
