"""The books and the charges: G5, G6."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from uuid import UUID

from voltledger.checker.difference import Difference
from voltledger.checker.dump import Session, SessionMoney, Settlement
from voltledger.checker.pricing import Totals, first_totals, next_totals
from voltledger.checker.rules.energy import Known, what_is_known
from voltledger.checker.world import World

MEMBERS = ("cost", "covered", "refund", "owed", "fee", "share")


def the_books_balance(world: World) -> list[Difference]:
    """G5: entries and currencies sum to nothing; kept balances are the sums of their lines, never below zero."""
    dump = world.dump
    found = [
        _g5(f"ledger entry {u.entry_id}", f"Debits and credits in {u.currency} differ.", 0, u.amount)
        for u in dump.unbalanced
    ]
    totals: dict[str, int] = defaultdict(int)
    for account in dump.accounts:
        totals[account.currency] += account.posted
        if account.balance_minor is not None and account.balance_minor != account.posted:
            what = "The kept balance is not the sum of its lines."
            found.append(_g5(account.code, what, account.posted, account.balance_minor))
        if account.balance_minor is not None and account.posted < 0:
            found.append(_g5(account.code, "More was taken out than was in it.", 0, account.posted))
    found += [
        _g5(f"all accounts in {currency}", "The lines of all accounts together are not nothing.", 0, total)
        for currency, total in totals.items()
        if total != 0
    ]
    for off in dump.off_balance:
        what = f"Behind line {off.line} of entry {off.entry_id} the account held something else than the line says."
        if off.running < 0:
            what = f"Behind line {off.line} of entry {off.entry_id} the account was below zero."
        found.append(_g5(off.code, what, off.running, off.balance_after))
    found += [
        _g5(f"ledger entry {o.id} ({o.kind} {o.source_id} v{o.version})", f"Wrong: {o.what}.") for o in dump.odd_entries
    ]
    return found


def _g5(subject: str, what: str, expected: int | None = None, found: int | None = None) -> Difference:
    return Difference(rule="G5", subject=subject, what=what, expected=expected, found=found)


def one_net_charge_each(world: World) -> list[Difference]:
    """G6: each ended session is charged once, at the exact price of its energy, and its entries say the same."""
    settlements: dict[UUID, list[Settlement]] = defaultdict(list)
    for settlement in world.dump.settlements:
        settlements[settlement.session_id].append(settlement)
    holds: dict[UUID, dict[int, int]] = defaultdict(dict)
    for hold in world.dump.holds:
        holds[hold.session_id][hold.version] = holds[hold.session_id].get(hold.version, 0) + hold.amount
    money = {m.session_id: m for m in world.dump.money}
    energies = true_energies(world)
    found: list[Difference] = []
    for session in world.dump.sessions:
        versions = sorted(settlements.pop(session.id, []), key=lambda s: s.version)
        held = holds.pop(session.id, {})
        found.extend(_versions(session, versions, held))
        found.extend(_latest(world, session, versions, energies.get(session.id)))
        found.extend(_moved(session, versions, held, money.get(session.id) or SessionMoney(session_id=session.id)))
    for session_id in [*settlements, *holds]:
        found.append(Difference(rule="G6", subject=f"session {session_id}", what="Money was booked for no session."))
    return found


def true_energies(world: World) -> Mapping[UUID, int]:
    """What should be charged, where somebody else than the books knows it. Units: Wh."""
    known = dict(world.rebuilt)
    for pair in world.pairs:
        if pair.book is not None and what_is_known(world, pair.true) is Known.EXACT:
            known[pair.book.id] = pair.true.energy_wh
    return known


def _versions(session: Session, versions: list[Settlement], holds: Mapping[int, int]) -> Iterable[Difference]:
    """Each settlement against the oracle, given its own energy and what was posted before it."""
    before: Totals | None = None
    for number, settlement in enumerate(versions, 1):
        subject = f"settlement {settlement.version} of {session.name}"
        if settlement.version != number:
            yield _g6(subject, "Versions of a settlement count 1, 2, 3 without a gap.", number, settlement.version)
        if _terms(settlement) != _terms(session):
            what = "It was priced by other terms than were fixed at the start."
            yield _g6(subject, what, str(_terms(session)), str(_terms(settlement)))
        wanted = _oracle(settlement, before, holds)
        for member in MEMBERS:
            posted = getattr(settlement, f"{member}_minor")
            if posted != getattr(wanted, member):
                what = f"Its {member} is not what {settlement.energy_wh} Wh make it."
                yield _g6(subject, what, getattr(wanted, member), posted)
        before = _totals_of(settlement)


def _terms(row: Session | Settlement) -> tuple[object, ...]:
    return (row.price_per_kwh_minor, row.fee_percent, row.currency)


def _oracle(settlement: Settlement, before: Totals | None, holds: Mapping[int, int]) -> Totals:
    if before is None:
        return first_totals(
            energy_wh=settlement.energy_wh,
            price=settlement.price_per_kwh_minor,
            fee_percent=settlement.fee_percent,
            paid=settlement.paid_minor,
        )
    return next_totals(
        before,
        energy_wh=settlement.energy_wh,
        price=settlement.price_per_kwh_minor,
        fee_percent=settlement.fee_percent,
        paid=settlement.paid_minor,
        held_anew=holds.get(settlement.version, 0) + settlement.paid_minor - before.paid,
    )


def _totals_of(settlement: Settlement) -> Totals:
    return Totals(**{member: getattr(settlement, f"{member}_minor") for member in ("paid", *MEMBERS)})


def _latest(world: World, session: Session, versions: list[Settlement], true_wh: int | None) -> Iterable[Difference]:
    """The last settlement against the session and the truth."""
    last = versions[-1] if versions else None
    count = 0 if last is None else last.version
    if session.settle_version != count:
        yield _g6(
            session.name, "It counts another number of settlements than there are.", count, session.settle_version
        )
    if session.is_open:
        return
    if session.settled_at is None:
        yield from _unsettled(world, session)
        return
    if last is None:
        yield _g6(session.name, "It is marked as settled and has no settlement.", 1, 0)
        return
    energy = session.energy_wh if true_wh is None else true_wh
    if last.energy_wh != energy:
        yield _g6(session.name, "It was charged for other Wh than it took.", energy, last.energy_wh)
    for member in ("paid", "refund"):
        booked = session.paid_minor if member == "paid" else session.refunded_minor
        if booked != getattr(last, f"{member}_minor"):
            yield _g6(
                session.name, f"Session and settlement differ in {member}.", getattr(last, f"{member}_minor"), booked
            )


def _unsettled(world: World, session: Session) -> Iterable[Difference]:
    if session.suspect:
        return  # A person decides; the job is held, which G8 looks at.
    since = max(t for t in (session.heard_at, session.ended_at, session.created_at) if t is not None)
    if (world.dump.at - since).total_seconds() > world.limits.unfinished_s:
        yield _g6(session.name, f"It is {session.status} and nobody has settled it.", "settled", "not settled")


def _moved(
    session: Session, versions: list[Settlement], holds: Mapping[int, int], money: SessionMoney
) -> Iterable[Difference]:
    """What its entries moved in all: nothing less, nothing twice."""
    last = versions[-1] if versions else None
    covered = 0 if last is None else last.covered_minor
    available = session.paid_minor - session.refunded_minor
    still_held = available - covered if session.is_open or session.settled_at is None else 0
    wanted = {
        "wallet": (-available, "G6", "The wallet was not charged what the session cost it."),
        "held": (still_held, "G8", "Other money is set aside for it than should be."),
        "receivable": (0 if last is None else -last.owed_minor, "G6", "Another debt is booked than is owed."),
        "payable": (0 if last is None else last.share_minor, "G6", "The organisation was not booked its share."),
        "platform_fee": (0 if last is None else last.fee_minor, "G6", "The platform was not booked its fee."),
    }
    for name, (amount, rule, what) in wanted.items():
        if getattr(money, name) != amount:
            yield Difference(rule=rule, subject=session.name, what=what, expected=amount, found=getattr(money, name))
    if holds.get(1, 0) != session.paid_minor:
        what = "It says to have been paid another amount than was set aside for it."
        yield _g6(session.name, what, holds.get(1, 0), session.paid_minor)


def _g6(subject: str, what: str, expected: int | str | None = None, found: int | str | None = None) -> Difference:
    return Difference(rule="G6", subject=subject, what=what, expected=expected, found=found)
