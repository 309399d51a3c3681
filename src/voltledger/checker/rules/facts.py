"""Facts and answers: G1, G2, G4, G10."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from voltledger.checker.content import parsed
from voltledger.checker.difference import Difference
from voltledger.checker.dump import Session
from voltledger.checker.journals import Fate, TrueFact, TrueSession
from voltledger.checker.world import World

FACTS = frozenset({"StartTransaction", "MeterValues", "StopTransaction"})


def answered_facts_are_recorded(world: World) -> list[Difference]:
    """G1: what a station got an answer for is in the inbox; what is there was said by a station.

    A fact whose raw frame was trimmed can no longer be told from others of its kind: as many as are missing may pass.
    """
    trimmed = Counter(world.frames_trimmed)
    found = []
    for fact in world.journals.facts:
        if not fact.good_answers or world.record_of(fact) is not None:
            continue
        if trimmed[(fact.station, fact.action)] > 0:
            trimmed[(fact.station, fact.action)] -= 1
            continue
        found.append(Difference(rule="G1", subject=fact.name, what="It was answered and is not recorded: it is lost."))
    return [*found, *_never_said(world)]


def _never_said(world: World) -> Iterable[Difference]:
    said = {(fact.station, fact.action, a.content) for fact in world.journals.facts for a in fact.attempts}
    said |= world.journals.asides
    known = world.journals.stations
    for frame in world.dump.frames:
        if frame.station_id not in known or frame.action not in FACTS:
            continue
        if (frame.station_id, frame.action, frame.content) not in said:
            yield Difference(
                rule="G1",
                subject=f"{frame.station_id} {frame.action} {frame.dedupe_key.hex()[:16]}",
                what="It is recorded and the station never said it.",
            )


def one_session_each(world: World) -> list[Difference]:
    """G2: one session for each true transaction, and none that nobody drove."""
    found = []
    books: dict[object, str] = {}
    for pair in world.pairs:
        true, book = pair.true, pair.book
        if book is None:
            heard = any(world.record_of(f) is not None or f.good_answers for f in true.of("StartTransaction"))
            if heard:
                what = f"Its start was recorded or answered ({_refs(true.transaction_refs)}) and there is no session."
                found.append(Difference(rule="G2", subject=true.name, what=what, expected=1, found=0))
        elif book.id in books:
            what = f"Its session is also the one of {books[book.id]}: two visits were taken for one."
            found.append(Difference(rule="G2", subject=true.name, what=what, expected=2, found=1))
        else:
            books[book.id] = true.name
            found.extend(_wrong_place(true.name, true.station, true.connector, book.station_id, book.evse_id))
            found.extend(_booked_elsewhere(world, true, book))
    for session in world.invented:
        what = "No visit at the station explains this session: it was invented or counted twice."
        found.append(Difference(rule="G2", subject=session.name, what=what, expected=0, found=1))
    return found


def _refs(refs: list[str]) -> str:
    return f"transaction {', '.join(refs)}" if refs else "no transaction id"


def _wrong_place(name: str, station: str, connector: int, book_station: str, evse: int) -> Iterable[Difference]:
    if (station, connector) != (book_station, evse):
        yield Difference(
            rule="G2",
            subject=name,
            what="Its session is booked at another connector.",
            expected=f"{station} connector {connector}",
            found=f"{book_station} connector {evse}",
        )


def _booked_elsewhere(world: World, true: TrueSession, book: Session) -> Iterable[Difference]:
    """What one visit said and another's session took."""
    for fact in true.facts:
        row = world.record_of(fact)
        if row is not None and row.session_id not in (None, book.id):
            what = f"Its message {fact.number} ({fact.action}) was booked to another session."
            yield Difference(rule="G2", subject=true.name, what=what, expected=str(book.id), found=str(row.session_id))


def every_answer_is_the_same(world: World) -> list[Difference]:
    """G4: all answers to one fact are equal, the stored one among them, however often and wherever it was said."""
    found = []
    given: dict[tuple[str, str, bytes], tuple[object, object]] = {}
    refs: dict[tuple[str, object], str] = {}
    for fact in world.journals.facts:
        for answer in fact.good_answers:
            essence = _essence(world, fact.station, answer.payload or {})
            first = given.setdefault((fact.station, fact.action, answer.attempt.content), essence)
            if first != essence:
                what = "The same message was answered differently."
                found.append(_unlike(fact, what, first, essence))
        stored = world.record_of(fact)
        last = fact.good_answers[-1:]
        if stored is not None and last:
            told = _essence(world, fact.station, last[0].payload or {})
            kept = _essence(world, fact.station, parsed(stored.response))
            if told != kept:
                found.append(_unlike(fact, "The stored answer is not the one that the station got.", kept, told))
        found.extend(_shared_ref(fact, refs))
    return found


def _shared_ref(fact: TrueFact, refs: dict[tuple[str, object], str]) -> Iterable[Difference]:
    """A transaction id names one visit: two visits with one id would be billed as one."""
    if fact.action != "StartTransaction":
        return
    for ref in {(a.payload or {}).get("transactionId") for a in fact.good_answers}:
        visit = f"{fact.run}/{fact.session}"
        if refs.setdefault((fact.station, ref), visit) != visit:
            yield Difference(
                rule="G4", subject=fact.name, what=f"Transaction {ref} was given to two visits of this station."
            )


def _essence(world: World, station: str, payload: dict[str, Any]) -> tuple[object, object]:
    """What an answer decides: the transaction, whichever of its ids was told, and what the token is worth."""
    info, ref = payload.get("idTagInfo"), payload.get("transactionId")
    alias = world.dump.aliases.get((station, str(ref)))
    session = None if alias is None else world.sessions.get(alias)
    name = ref if session is None else session.transaction_ref
    return None if name is None else str(name), info.get("status") if isinstance(info, dict) else None


def _unlike(fact: TrueFact, what: str, expected: object, found: object) -> Difference:
    return Difference(rule="G4", subject=fact.name, what=what, expected=str(expected), found=str(found))


def nothing_was_given_up(world: World) -> list[Difference]:
    """G10: no station gave a message up because of us, and none got an error for one.

    A message whose answers the station itself threw away was not given up because of us.
    """
    found = []
    for fact in world.journals.facts:
        errors = [answer.error for answer in fact.answers if answer.error is not None]
        for error in errors:
            what = f"It was answered with an error ({error}), which costs the station an attempt."
            found.append(Difference(rule="G10", subject=fact.name, what=what, expected=0, found=1))
        ours = not fact.attempts or any(not attempt.ignored for attempt in fact.attempts)
        if fact.fate is Fate.DISCARDED and ours and not fact.good_answers:
            what = f"The station gave it up after {len(fact.attempts)} attempts: what it said is lost."
            found.append(Difference(rule="G10", subject=fact.name, what=what, expected=0, found=1))
    return found
