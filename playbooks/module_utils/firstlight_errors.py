"""Why a module fails. Runs on any Python from 3.8 on."""

from __future__ import annotations


class HostError(Exception):
    """What stands against what a module is to do on its host.

    Args:
        text: What is wrong, with values.
        hint: What helps.
        output: What a program printed about it.
    """

    def __init__(self, text, hint=None, output=""):
        super().__init__(text)
        self.hint = hint
        self.output = output
