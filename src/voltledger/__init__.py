"""voltledger: an OCPP central system whose books always agree with what the charging stations did."""

__version__ = "0.1.0"
