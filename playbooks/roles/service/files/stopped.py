"""Records that the service was stopped on purpose, for the checks: PREFIX/etc/stopped.json.

    stopped.py PREFIX

It holds for an end of the service before `monotonic` (seconds since boot) in this very boot, and for no later one.
"""

import json
import os
import sys
import time


def main():
    path = os.path.join(sys.argv[1], "etc", "stopped.json")
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot_id = file.read().strip()
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        json.dump({"at": at, "boot_id": boot_id, "monotonic": time.monotonic()}, file)
    os.replace(f"{path}.new", path)


main()
