"""Says whether the folder of a model is complete: config.json can be read, and each safetensors file is as long as its own header says.

Run by the environment's own Python: check_weights.py FOLDER.
"""

import json
import os
import struct
import sys


def fault_of(path):
    """Return what is wrong with a safetensors file, or None. Its first 8 bytes are the header's length, little endian."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(8)
        if len(start) < 8:
            return f"{path} has {size} bytes and no header"
        (length,) = struct.unpack("<Q", start)
        if length > size:
            return f"{path} has {size} bytes, and its header alone {length}"
        header = json.loads(file.read(length))
    end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    return None if 8 + length + end == size else f"{path} has {size} bytes, not {8 + length + end}"


def main():
    folder = sys.argv[1]
    try:
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            json.load(file)
        weights = [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name.endswith(".safetensors")]
        faults = [fault for path in weights if (fault := fault_of(path))]
    except (OSError, ValueError) as error:
        faults = [str(error)]
    if faults:
        print(f"firstlight-error: model {folder} is not complete: {'; '.join(faults)}", file=sys.stderr)
        sys.exit("firstlight-hint: run ./firstlight provision: the model is made or sent again")


main()
