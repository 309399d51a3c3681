"""One thing that is not as it must be."""

import msgspec


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong, in one sentence.

    Shapes: `rule` is G1 to G12; `subject` names what it is about (a fact, a session, an account);
            `expected` and `found` are figures or words, None where the sentence says it all.
    """

    rule: str
    subject: str
    what: str
    expected: int | str | None = None
    found: int | str | None = None
