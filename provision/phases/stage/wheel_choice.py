"""The choice of the one wheel of each distribution that fits the host, from uv's pylock.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Collection

from packaging.pylock import PackageWheel, Pylock, PylockSelectError, PylockValidationError
from packaging.utils import canonicalize_name

from provision.catalog.index.settings import without_credentials
from provision.core.errors import StageError
from provision.phases.stage.lock_file import LockedWheel
from provision.phases.stage.platforms import Target


def choose_wheels(pylock: str, target: Target, *, own: Collection[str] = ()) -> list[LockedWheel]:
    """Choose the wheel of each distribution.

    Args:
        own: Names of distributions to leave out, since they are built on the controller.

    Raises:
        StageError: A distribution has no wheel that fits, or one without a sha256.
    """
    local = {canonicalize_name(name) for name in own}
    try:
        lock = Pylock.from_dict(tomllib.loads(pylock))
        chosen = [
            (package, choice)
            for package, choice in lock.select(environment=target.markers(), tags=target.tags())
            if package.name not in local
        ]
    except (PylockSelectError, PylockValidationError, tomllib.TOMLDecodeError) as error:
        raise StageError(
            f"uv's lock does not fit Python {target.python} on {target.machine}: {without_credentials(str(error))}"
        ) from error
    locked = []
    for package, choice in chosen:
        if not isinstance(choice, PackageWheel):
            raise StageError(
                f"no wheel of {package.name} {package.version} fits {target.wheel_tag}", cause="platform-no-wheel"
            )
        sha256 = choice.hashes.get("sha256")
        if not sha256 or not choice.url:
            raise StageError(
                f"the index gives no sha256 for `{choice.filename}`",
                hint="use an index that announces sha256 hashes (PEP 503)",
            )
        locked.append(LockedWheel(package.name, str(package.version), choice.filename, sha256, choice.url, choice.size))
    return locked
