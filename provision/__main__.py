"""The program: `python -m provision` is what the launcher runs, `firstlight` what a package installs."""

import gc
import os

from provision.cli.main import main

CERTIFICATES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
"""What a machine trusts, a company's own authority too, on Debian and on Red Hat. The launcher has the same for its own uv."""


def run() -> None:
    """Run the command that was typed."""
    # Collecting cycles every 700 objects takes 0.1 s of a short command and finds nothing; a run of hours still collects, less often.
    gc.set_threshold(200_000)
    if not os.environ.get("SSL_CERT_FILE") and any(map(os.path.isfile, CERTIFICATES)):
        os.environ.setdefault("UV_SYSTEM_CERTS", "true")
    main()


if __name__ == "__main__":
    run()
