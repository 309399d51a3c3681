"""A session's story in time order, for people."""

from uuid import UUID

from voltledger.services.catalog import Catalog, SessionStory


async def tell(catalog: Catalog, session_id: UUID) -> tuple[SessionStory, str]:
    """The story of a session, and its text. Raises: NotFound."""
    story = await catalog.explain(session_id)
    session = story.session
    lines = []
    if session.started_at is not None:
        lines.append((session.started_at, f"transaction {session.transaction_id} began on {session.station}"))
    if session.ended_at is not None:
        lines.append((session.ended_at, f"ended: {session.stop_reason}, {session.energy_wh} Wh"))
    lines += [(c.created_at, f"asked the station: {c.action} ({c.state})") for c in story.commands]
    lines += [(f.found_at, f"{f.kind}: {f.summary}") for f in story.findings]
    for entry in story.entries:
        lines.append((entry.recorded_at, f"{entry.kind} v{entry.version}: {entry.reason}"))
        for posting in entry.postings:
            side = "debit " if posting.side == "debit" else "credit"
            lines.append((entry.recorded_at, f"    {side} {posting.amount_minor:>12} {posting.account}"))
    lines.sort(key=lambda line: line[0])
    told = "\n".join(f"{at:%Y-%m-%d %H:%M:%S}  {text}" for at, text in lines)
    return story, f"{story.sentence}\n\n{told}"
