"""`python -m provision`: what the launcher runs."""

import atexit
import gc
import os
import sys

# Most commands live for a second, a third of it imports. Collecting cycles every 700 objects takes 0.1 s of that and finds nothing;
# a run of hours still collects, less often. Asking every installed distribution for pydantic plugins takes 0.05 s: there are none.
gc.set_threshold(200_000)
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

ended: list[int] = []


def leave() -> None:
    """End after a command that has ended in order. Taking every module apart would take 0.02 to 0.05 s for what the system frees anyway."""
    if not ended:
        return
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # the interpreter says it
            return
    os._exit(ended[0])


# What is registered first is called last: after all that others have to do at the end.
atexit.register(leave)

from provision.cli.main import main  # noqa: E402 - what is set above has to hold while it imports

if __name__ == "__main__":
    try:
        main()
    except SystemExit as how:
        if how.code is None or isinstance(how.code, int):
            ended.append(how.code or 0)
        raise
