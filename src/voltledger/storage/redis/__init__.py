"""Redis, a cache: everything in it may vanish at any moment without changing a session or an amount."""
