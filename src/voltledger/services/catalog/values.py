"""What people may type: texts, identities and currencies, checked; each is the value or InvalidInput."""

import re

from voltledger.domain.errors import InvalidInput


def text_of(field: str, text: str, *, most: int, least: int = 1) -> str:
    """The text without blanks at its ends. Raises: InvalidInput."""
    trimmed = text.strip()
    if not least <= len(trimmed) <= most:
        raise InvalidInput(field, f"must be {least} to {most} characters")
    if not trimmed.isprintable():
        raise InvalidInput(field, "must not hold control characters")
    return trimmed


def identity_of(field: str, text: str, *, most: int = 64) -> str:
    """A text that can stand in a path of a URL. Raises: InvalidInput."""
    identity = text_of(field, text, most=most)
    if "/" in identity or "\\" in identity or identity in (".", ".."):
        raise InvalidInput(field, "must not hold / or \\ and must not be . or ..")
    return identity


def identity_or_slug(id: str | None, name: str) -> str:
    """The id that was given, or one made from the name, which may be empty. Raises: InvalidInput."""
    return identity_of("id", id) if id is not None else _slug(name)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:64]


def currency_of(text: str) -> str:
    """A code of three capital letters. Raises: InvalidInput."""
    if not re.fullmatch(r"[A-Z]{3}", text):
        raise InvalidInput("currency", "must be three capital letters, like INR")
    return text
