"""Prints the record that the service was stopped on purpose.

It holds for an end of the service before this moment, in this boot, and for no later one. Run by the Python that Ansible uses: the environment may be broken.
"""

import json
import pathlib
import time

record = {
    "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    "boot_id": pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
    "monotonic": time.monotonic(),
}
print(json.dumps(record))
