"""The phase `install`: Ansible playbooks, run through ansible-runner, and their events as results."""
