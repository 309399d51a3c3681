"""The laboratory: real servers, made to fail at named points, and judged by what the stations know.

Nothing of it is part of the program. See `points` for the table of what is tried, `matrix` and `kills` for the runs.
"""
