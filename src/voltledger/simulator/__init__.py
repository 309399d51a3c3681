"""A fleet of simulated charging stations."""
