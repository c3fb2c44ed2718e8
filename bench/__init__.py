"""Measurements of Lateen: `make bench` or `python -m bench --help`; see docs/operations/performance.md."""
