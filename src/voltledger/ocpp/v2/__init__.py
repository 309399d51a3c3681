"""OCPP 2.0.1 and 2.1: the wire types are here, and no message is served yet.

`types` is generated from 2.1's schemas, which keep every message of 2.0.1 and only loosen it.
"""
