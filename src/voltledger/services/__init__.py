"""Use cases: load, decide, save, in one unit of work. No sockets here, no SQL, no OCPP."""
