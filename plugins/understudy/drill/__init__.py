"""Practises the way back on a sandbox: real runs with planted faults, and what caught them. Nothing of production is touched."""
