"""Planted bugs: faults that a careless engineer could make in `src`, each of which the suite has to catch (S-03)."""
