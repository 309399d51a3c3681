"""Loops: periodic work under a lease, deadlines, settlements, effects outside the database."""
