"""The sidecar agent: one process beside each workload, which starts Envoy and gives it all that it needs.

Duties, a module each: `identity` and `sds` (certificates), `bootstrap` and `envoy` (the proxy), `nds` and `dns`
(names), `health` and `metrics` (what others ask), `app` (the application), `drain` (leaving); `runner` ties them.
It stays under 60 MB: nothing heavy is imported here, and Envoy's own messages nowhere. docs/design/0005-agent.md.
"""

__all__: list[str] = []
