"""A session's story for people, in the order in which it came to us: by our clock, with the station's beside it."""

from collections.abc import Iterator
from datetime import datetime
from uuid import UUID

from voltledger.services.catalog import Catalog, EntryView, SessionStory, energy_text, money_text

Line = tuple[datetime, str]


async def tell(catalog: Catalog, session_id: UUID) -> tuple[SessionStory, str]:
    """The story of a session, and its text. Raises: NotFound."""
    story = await catalog.explain(session_id)
    lines = sorted(_lines(story), key=lambda line: line[0])
    told = "\n".join(f"{at:%Y-%m-%d %H:%M:%S}  {text}" for at, text in lines)
    return story, f"{story.sentence}\n\n{told}"


def _lines(story: SessionStory) -> Iterator[Line]:
    """What happened, each with the time at which we learned or did it."""
    yield from _reported(story)
    yield from ((c.created_at, f"asked the station: {c.action} ({c.state})") for c in story.commands)
    yield from ((f.found_at, f"{f.kind}: {f.summary}") for f in story.findings)
    for entry in story.entries:
        yield from _posted(entry)


def _reported(story: SessionStory) -> Iterator[Line]:
    session = story.session
    starts = [f for f in story.facts if f.action == "StartTransaction"]
    ends = [f for f in story.facts if f.action == "StopTransaction"]
    if session.started_at is not None:
        at = starts[0].received_at if starts else story.created_at
        name = f"transaction {session.transaction_id} began on {session.station}, connector {session.connector}"
        yield at, f"{name} (the station's clock said {_clock(session.started_at)})"
    else:
        yield story.created_at, f"set up for {session.station}, connector {session.connector}; it has not begun"
    if session.ended_at is not None:
        figures = f"{session.stop_reason or 'no reason given'}, {energy_text(session.energy_wh)}"
        if ends:
            yield ends[-1].received_at, f"ended: {figures} (the station's clock said {_clock(session.ended_at)})"
        else:
            # Nobody reported this end, so it became true here when it was first settled.
            at = story.settlements[0].settled_at if story.settlements else session.ended_at
            yield at, f"ended without a report of the station: {figures} (as of {_clock(session.ended_at)})"
    for fact in story.facts:
        if fact.state != "applied":
            yield fact.received_at, f"{fact.action} of the station is kept and not applied ({fact.state})"


def _posted(entry: EntryView) -> Iterator[Line]:
    yield entry.recorded_at, f"{entry.kind} v{entry.version}: {entry.reason}"
    for posting in entry.postings:
        amount = money_text(posting.amount_minor, posting.currency)
        yield entry.recorded_at, f"    {posting.side:6} {amount:>18}  {posting.account}"


def _clock(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"
