"""What a host's package manager knows: whether its sources answer, and which packages there are. The host is not changed.

apt's downloader fetches the small InRelease files of `apt-get update` into a temporary folder.
"""

from __future__ import annotations

from provision.fleet.ssh import Session

_SCRIPT = """
set -u
command -v apt-get >/dev/null 2>&1 || { echo not-apt; exit 0; }
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
uris=$(apt-get update --print-uris 2>/dev/null | sed -n "s/^'\\([^']*InRelease\\)'.*/\\1/p")
[ -n "$uris" ] || { echo none; exit 0; }
for uri in $uris; do
  if timeout 8 /usr/lib/apt/apt-helper -o Acquire::Retries=0 -o Acquire::http::Timeout=5 -o Acquire::https::Timeout=5 \
    download-file "$uri" "$folder/InRelease" >/dev/null 2>&1; then
    echo answers; exit 0
  fi
done
echo silent
"""


def package_sources_answer(session: Session) -> bool | None:
    """Return whether the package sources answer; None without apt."""
    done = session.run(_SCRIPT, timeout_s=60.0)
    return {"answers": True, "none": False, "silent": False}.get(done.stdout.strip())


def dpkg_status(session: Session) -> str:
    """Return the list of OS packages that dpkg keeps.

    Raises:
        TransportError: The host does not answer.
    """
    return session.read("/var/lib/dpkg/status").decode(errors="replace")
