"""`python -m provision`: what the launcher runs."""

import gc

from provision.cli.main import main

if __name__ == "__main__":
    # Collecting cycles every 700 objects takes 0.1 s of a short command and finds nothing; a run of hours still collects, less often.
    gc.set_threshold(200_000)
    main()
