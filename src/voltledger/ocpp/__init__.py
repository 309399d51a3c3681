"""The wire: OCPP-J frames, messages of each version, and their translation to the words of the core.

Nothing here opens a socket, reads a clock or waits; times are arguments. `rpc` reads and writes
frames, `registry.dialect(version)` everything inside them.
"""
