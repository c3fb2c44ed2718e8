"""What people see of a mesh: edges from its metrics, traces from its spans. Knows neither proxies nor resources."""
