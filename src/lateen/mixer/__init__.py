"""Mixer: policy and telemetry that need more than a proxy knows."""
