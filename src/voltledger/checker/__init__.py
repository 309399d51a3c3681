"""The independent checker: judges the server by what others saw, and shares no code with it.

It imports nothing of voltledger but itself (a test enforces it), reads the stations' own journals, the journals of
outside effects, a read-only snapshot of PostgreSQL and what Redis holds, and prices with rational numbers of its own.
Whatever the server and the checker agree on was worked out twice.

    judge     after a run with simulated stations: their journals against the books (rules G1 to G12)
    verify    on a living system without journals: the books rebuilt from the raw frames that stations sent
"""

from voltledger.checker.difference import Difference
from voltledger.checker.errors import CheckerError
from voltledger.checker.judging import judge, judge_world
from voltledger.checker.rebuild import verify
from voltledger.checker.report import as_json, as_text
from voltledger.checker.verdict import Figures, Verdict
from voltledger.checker.world import Limits, World

__all__ = [
    "CheckerError",
    "Difference",
    "Figures",
    "Limits",
    "Verdict",
    "World",
    "as_json",
    "as_text",
    "judge",
    "judge_world",
    "verify",
]
