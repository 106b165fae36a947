"""Rollouts: which hosts change in which step, how a gate decides, and what is kept on disk. Nothing here touches a host."""
