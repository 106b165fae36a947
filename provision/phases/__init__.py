"""The phases of a run, in their order: probe, plan, stage, install, verify, serve. A phase imports from earlier ones at most."""
