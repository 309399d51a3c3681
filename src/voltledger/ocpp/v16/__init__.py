"""OCPP 1.6: one module per feature profile; `types` is generated from the JSON schemas."""
