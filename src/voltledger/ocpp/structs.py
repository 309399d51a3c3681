"""The base of every generated wire type."""

import msgspec


class OcppStruct(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    rename="camel",
    gc=False,
):
    """A request, a response or a part of one, exactly as its JSON schema says.

    Decoding checks the schema; building one in code checks nothing (see `tolerant`), so that what
    a station sent wrongly can be carried too. Absent members are None and are not written.
    """
