"""The mask of recorded messages under the gateway's own name; the catalogue shows frames through the same one."""

from voltledger.services.masking import mask

__all__ = ["mask"]
