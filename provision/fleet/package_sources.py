"""What a host's package manager knows: whether its sources answer, and which packages there are. The host is not changed.

apt's downloader fetches the small InRelease files of `apt-get update` into a temporary folder.
"""

from pathlib import Path

from provision.fleet.ssh import Session
from provision.fleet.ssh.script import script_of

_SCRIPT = Path(__file__).with_name("package_sources.sh")


def package_sources_answer(session: Session) -> bool | None:
    """Return whether the package sources answer; None without apt."""
    done = session.run(script_of(_SCRIPT), timeout_s=60.0)
    return {"answers": True, "none": False, "silent": False}.get(done.stdout.strip())


def dpkg_status(session: Session) -> str:
    """Return the list of OS packages that dpkg keeps.

    Raises:
        TransportError: The host does not answer.
    """
    return session.read("/var/lib/dpkg/status").decode(errors="replace")
