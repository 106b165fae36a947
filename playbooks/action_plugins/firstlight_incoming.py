"""Ansible action: files for the incoming folder of a host, over Ansible's own connection.

Task `copy` runs two modules for each file, which takes some minutes for 200 files. This action runs one for all, and then only transfers.
"""

from __future__ import annotations

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Sends what the module of the same name finds to be missing."""

    def run(self, tmp=None, task_vars=None):
        """Return the result of the module."""
        result = {**super().run(tmp, task_vars), **self._execute_module(task_vars=task_vars)}
        if not self._task.check_mode:
            paths = {file["name"]: file["path"] for file in self._task.args["files"]}
            for name in result.get("lacking", ()):
                self._connection.put_file(paths[name], f"{self._task.args['folder']}/{name}")
        return result
