"""``make chaos``: the service as real processes, a seeded monkey that breaks them, and the judge at the end."""
