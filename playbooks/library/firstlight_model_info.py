#!/usr/bin/python
"""Ansible module: whether a model's folder is complete."""

from __future__ import annotations

DOCUMENTATION = r"""
module: firstlight_model_info
short_description: Check that the folder of a model is complete
description:
  - Reads C(config.json), and compares the length of every safetensors file with its own header. Changes nothing.
  - Fails where the model is not complete.
options:
  folder:
    description: Folder of the model on the host.
    type: path
    required: true
author: Firstlight
"""

EXAMPLES = r"""
- name: Verify that the model is complete
  firstlight_model_info:
    folder: /opt/firstlight/models/llama
"""

RETURN = r"""
weights:
  description: Files of weights.
  type: list
  elements: str
  returned: success
"""

import json
import os
import struct

from ansible.module_utils.basic import AnsibleModule

ARGUMENTS = {"folder": {"type": "path", "required": True}}


def fault_of_weights(path):
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
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    folder, weights, faults = module.params["folder"], [], []
    try:
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            json.load(file)
        weights = [name for name in sorted(os.listdir(folder)) if name.endswith(".safetensors")]
        faults = [fault for name in weights if (fault := fault_of_weights(os.path.join(folder, name)))]
    except (OSError, ValueError) as error:
        faults.append(str(error))
    if faults:
        hint = "run ./firstlight provision: the model is made or sent again"
        module.fail_json(msg=f"model {folder} is not complete: {'; '.join(faults)}", hint=hint)
    module.exit_json(changed=False, weights=weights)


if __name__ == "__main__":
    main()
