"""`python -m provision`: what the launcher runs."""

import gc
import os

# Most commands live for a second, a third of it imports. Collecting cycles every 700 objects takes 0.1 s of that and finds nothing;
# a run of hours still collects, less often. Asking every installed distribution for pydantic plugins takes 0.05 s: there are none.
gc.set_threshold(100_000)
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

from provision.cli.main import main  # noqa: E402 - what is set above has to hold while it imports

if __name__ == "__main__":
    try:
        main()
    finally:
        # The interpreter collects once more when it ends: 0.04 s for what the system frees anyway.
        gc.freeze()
