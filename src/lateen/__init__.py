"""Lateen: a service mesh that speaks Istio's API, with a Python control plane and stock Envoys."""

__version__ = "0.1.0"
