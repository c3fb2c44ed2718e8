"""Measurements of Lateen: `make bench`, or `python -m bench --help`. What the rows mean: docs/operations/performance.md."""
