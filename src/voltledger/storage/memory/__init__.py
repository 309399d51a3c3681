"""The stores in memory: the same promises as PostgreSQL's, for tests and for the simulation.

Rules: a unit of work is all or nothing; what it wrote is seen by others after its commit only; rows that it locks or
keys that it is about to make hold others up; a key is taken once. `tests/contract` holds both to the same behaviour.
What is in a `MemoryDatabase` outlives the `Access` of a process that dies.
"""
