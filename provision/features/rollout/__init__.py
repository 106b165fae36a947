"""Rollouts: a new release, host by host, with a gate after each step."""
