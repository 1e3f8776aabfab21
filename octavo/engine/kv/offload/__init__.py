"""A second and a third tier for KV blocks that memory has no room for: host memory and disk."""
