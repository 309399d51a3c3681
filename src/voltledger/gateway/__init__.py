"""The asyncio shell around stations: sockets, subprotocols, authentication, connections."""
