"""Reports of rules that go to other servers: logs, spans, events."""
