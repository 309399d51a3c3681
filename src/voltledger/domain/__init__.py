"""The pure core: decides, and touches nothing.

Rules: no I/O, no asyncio, no clock, no randomness, and no import of ours from outside this package.
Time, new identifiers and prices are arguments; a decision is a value that a shell carries out.
"""
