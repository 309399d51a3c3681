"""Developers' tools; nothing here is installed."""
