"""Adapters in the box that ask somebody else."""
