"""Have a real Envoy judge what proxies are to be sent, before they are. Knows Envoy's resources, no Istio."""
