"""Messages that two parts share: between agent, control plane and CLI. No logic."""
