"""What is where it belongs: G11, G12."""

from collections.abc import Iterable, Mapping

from voltledger.checker.difference import Difference
from voltledger.checker.redis_state import CacheValue
from voltledger.checker.world import World


def redis_agrees(world: World) -> list[Difference]:
    """G11: whatever Redis holds follows from PostgreSQL; what it does not hold is no matter."""
    found: list[Difference] = []
    statuses = {(c.station_id, str(c.evse_id)): c.status for c in world.dump.connectors}
    for key, value in (world.redis or {}).items():
        kind, _, station = key.partition(":")
        match kind:
            case "status":
                found.extend(_statuses(key, station, value, statuses))
            case "owner":
                found.extend(_owner(key, station, value, world.dump.owners))
            case "events":
                found.extend(_events(world, key, station, value))
            case _:
                pass  # Keys that others keep here are theirs.
    return found


def _statuses(
    key: str, station: str, value: CacheValue, recorded: Mapping[tuple[str, str], str]
) -> Iterable[Difference]:
    if not isinstance(value, Mapping):
        yield _g11(key, "It is no hash of statuses.", "a hash", type(value).__name__)
        return
    for evse, status in value.items():
        if evse != "at" and recorded.get((station, evse)) != status:
            what = f"The live status of connector {evse} is not the recorded one."
            yield _g11(key, what, recorded.get((station, evse), "none"), status)


def _owner(key: str, station: str, value: CacheValue, owners: Mapping[str, str]) -> Iterable[Difference]:
    """Where nobody holds the socket, the key may still name who held it: it goes by itself."""
    wanted = owners.get(station)
    if not isinstance(value, str) or (wanted is not None and value != wanted):
        yield _g11(key, "It names another node than the one that holds the socket.", wanted or "a node", str(value))


def _events(world: World, key: str, station: str, value: CacheValue) -> Iterable[Difference]:
    if not isinstance(value, list):
        yield _g11(key, "It is no stream of events.", "a stream", type(value).__name__)
        return
    places = {str(session.id): session.station_id for session in world.dump.sessions}
    for named in {fields.get("s", "") for fields in value} - {""}:
        if places.get(named) != station:
            what = f"Its events name session {named}, which is not one of this station."
            yield _g11(key, what, station, places.get(named, "no session"))


def _g11(subject: str, what: str, expected: str, found: str) -> Difference:
    return Difference(rule="G11", subject=subject, what=what, expected=expected, found=found)


def nobody_holds_what_is_anothers(world: World) -> list[Difference]:
    """G12: nothing names a session, a payer or an organisation that is not its own.

    Stations and tokens may have been given to others since on a living system, so that is looked at in runs only.
    """
    rows = [*world.dump.crossed, *([] if world.live else world.dump.moved)]
    found = [
        Difference(
            rule="G12",
            subject=f"{row.what} {row.subject}",
            what="It belongs to one and names what is another's.",
            expected=row.expected,
            found=row.found,
        )
        for row in rows
    ]
    if world.dump.readings_of_nobody:
        what = "Readings are recorded for sessions that do not exist."
        found.append(
            Difference(rule="G12", subject="readings", what=what, expected=0, found=world.dump.readings_of_nobody)
        )
    return found
