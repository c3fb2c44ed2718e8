"""A folder of YAML: what changes in it, and what each of its files held when it was last good."""
