"""What keeps the checker from judging.

CheckerError        a person can mend it: one line that says what to do
"""


class CheckerError(Exception):
    """The checker cannot judge. The text is one line that says what to do next."""
