"""The program: `python -m provision` is what the launcher runs, `firstlight` what a package installs."""

import gc

from provision.cli.main import main


def run() -> None:
    """Run the command that was typed."""
    # Collecting cycles every 700 objects takes 0.1 s of a short command and finds nothing; a run of hours still collects, less often.
    gc.set_threshold(200_000)
    main()


if __name__ == "__main__":
    run()
