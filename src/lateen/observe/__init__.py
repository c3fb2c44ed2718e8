"""What people see of a mesh: edges from its metrics, as tables and as pictures. Knows neither proxies nor resources."""
