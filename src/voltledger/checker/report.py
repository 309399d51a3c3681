"""A verdict as text for people and as JSON for programs."""

import msgspec

from voltledger.checker.difference import Difference
from voltledger.checker.verdict import Figures, Verdict

SHOWN = 50
"""So many differences are printed for people; JSON has all of them."""


def as_json(verdict: Verdict) -> str:
    """One object: clean, differences, figures, took_s."""
    return msgspec.json.encode(
        {
            "clean": verdict.clean,
            "differences": verdict.differences,
            "figures": verdict.figures,
            "took_s": verdict.took_s,
        }
    ).decode()


def as_text(verdict: Verdict) -> str:
    """The differences, one a line, and the figures below them."""
    lines = [_line(difference) for difference in verdict.differences[:SHOWN]]
    if len(verdict.differences) > SHOWN:
        lines.append(f"... and {len(verdict.differences) - SHOWN} more; --json lists all of them")
    count = len(verdict.differences)
    lines.append("No difference." if verdict.clean else f"{count} difference{'' if count == 1 else 's'}.")
    return "\n".join([*lines, *_figures(verdict.figures)])


def _line(difference: Difference) -> str:
    figures = ""
    if difference.expected is not None or difference.found is not None:
        figures = f" Expected {_word(difference.expected)}, found {_word(difference.found)}."
    return f"{difference.rule:4}{difference.subject}: {difference.what}{figures}"


def _word(value: int | str | None) -> str:
    return "nothing" if value is None else str(value)


def _figures(figures: Figures) -> list[str]:
    lines = [f"{figures.sessions} sessions, {figures.wh} Wh, {figures.entries} ledger entries"]
    if figures.true_sessions or figures.facts:
        lines.append(
            f"stations: {figures.true_sessions} sessions, {figures.true_wh} Wh; {figures.facts} messages, "
            f"{figures.facts_answered} answered, {figures.facts_with_stations} still queued, "
            f"{figures.facts_lost_by_stations} lost by the stations, {figures.facts_discarded} given up"
        )
        lines.append(
            f"not in the books: {figures.wh_lost_by_stations} Wh lost by stations, {figures.wh_with_stations} Wh still "
            f"with stations, {figures.wh_in_quarantine} Wh in quarantine, {figures.wh_among_strays} Wh of "
            "transactions that never began"
        )
    if figures.sessions_rebuilt or figures.not_provable:
        lines.append(f"{figures.sessions_rebuilt} sessions rebuilt from raw frames")
    lines += [f"{count} not provable: {why}" for why, count in figures.not_provable.items()]
    lines += [
        f"{currency}: cost {m.cost} = fee {m.fee} + share {m.share}; refunded {m.refund}, owed {m.owed}, held "
        f"{m.held}, in wallets {m.wallets}, topped up {m.topped_up} (minor units)"
        for currency, m in sorted(figures.money.items())
    ]
    return lines
