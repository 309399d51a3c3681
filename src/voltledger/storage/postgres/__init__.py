"""PostgreSQL, the only truth: plain SQL, constraints with names, one unit of work at a time."""
