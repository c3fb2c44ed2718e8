"""Adapters of one's own: found, run in processes of their own, replaced while running."""
