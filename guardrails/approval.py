"""Quorum: have enough different people, in the right roles, said yes. Pure.

Invariants:
- People are counted, never keys or signatures: two signatures of one person are one.
- A rejection by anyone in the roster, in any role of theirs, ends it: nothing added later completes it,
  and neither exclusion nor surface takes the right to say no away. A request for change by any of them
  holds it up for as long as it stands; nothing that others add outweighs it.
- An approval that carries its own end counts until then and no longer.
- Only a role that the person holds in the roster now, and that a rule asks for, counts.
- The proposer and other excluded people do not count, except where one single person holds the
  roles that a quorum of one asks for: that person may act alone, and it is called ``sole person``.
  A quorum of two never shrinks, except that the only person of a workspace activates policies alone.
- Several rules (of several policies) are all to be met, each by itself.
- Nothing here reads a clock: ``now`` is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from guardrails.policy.effective import Effective
from guardrails.policy.model import QuorumRule
from guardrails.records import Person, Role, Roster, Surface


@dataclass(frozen=True)
class Vote:
    """One person's signed yes or no, whose binding the caller has found to be current.

    ``final``: a no that is not final is a request for change; it holds up while it is among the votes.
    ``expires_at``: when a yes stops to count, where its signer said so.
    """

    person: str
    role: Role
    approve: bool
    at: datetime
    surface: Surface = Surface.CLI
    viewed: tuple[str, ...] = ()
    final: bool = True
    expires_at: datetime | None = None


@dataclass(frozen=True)
class Terms:
    """What else an approval must satisfy. The defaults ask for nothing (rollback, halt, resume).

    ``excluded`` are people's ids. ``opened_at`` is when signing became possible: earlier votes do not
    count, and after ``expires_after`` it is over; ``closes_at`` is an end that stands by itself.
    ``alone``: the only person in a roster suffices.
    """

    excluded: frozenset[str] = frozenset()
    surfaces: tuple[Surface, ...] = tuple(Surface)
    require_viewed: tuple[str, ...] = ()
    opened_at: datetime | None = None
    expires_after: timedelta | None = None
    closes_at: datetime | None = None
    cool_down: timedelta = timedelta(0)
    alone: bool = False

    @classmethod
    def of(cls, effective: Effective, excluded: frozenset[str], opened_at: datetime) -> Terms:
        """The terms for approving a proposal under the policies in force."""
        return cls(
            excluded=excluded,
            surfaces=effective.surfaces,
            require_viewed=effective.require_viewed,
            opened_at=opened_at,
            expires_after=effective.expires_after,
            cool_down=effective.cool_down,
        )


@dataclass(frozen=True)
class Tally:
    """Where an approval stands.

    ``complete``: the quorum is full, nobody rejected, nobody waits for a change and it has not expired.
    ``people`` are those who count so far, in the order of their signatures; ``waiting_for`` those whose
    request for change stands. ``missing`` says what is missing, "" if nothing.
    ``earliest_at``: when a complete approval may take effect (the cool-down's end); None before.
    """

    complete: bool
    vetoed: bool
    expired: bool
    people: tuple[str, ...]
    missing: str
    sole_person: bool
    earliest_at: datetime | None
    waiting_for: tuple[str, ...] = ()

    def is_ready(self, now: datetime) -> bool:
        """Complete, and the cool-down is over."""
        return self.complete and self.earliest_at is not None and now >= self.earliest_at


def tally(
    votes: Sequence[Vote], roster: Roster, rules: Sequence[QuorumRule], terms: Terms, now: datetime
) -> Tally:
    """Count the votes that count, by every rule."""
    active = {person.id: person for person in roster.people if _can_sign(person)}
    ordered = sorted((v for v in votes if _in_time(v, terms, now)), key=lambda v: (v.at, v.person))
    against = [v for v in ordered if not v.approve and _holds(active, v)]
    vetoed = any(v.final for v in against)
    waiting_for = tuple(dict.fromkeys(v.person for v in against if not v.final))
    counted = [v for v in ordered if v.approve and _holds(active, v) and _is_informed(v, terms)]
    # Who can only change the roster (a recovery key) decides nothing, and makes no second person.
    is_only = sum(bool(set(person.roles) - {Role.ROOT}) for person in roster.people) == 1
    results = [_by_rule(counted, active, rule, terms, is_only=is_only) for rule in rules]
    deadline = _deadline(terms)
    expired = deadline is not None and now >= deadline
    full = bool(rules) and all(result.full_at is not None for result in results)
    complete = full and not vetoed and not waiting_for and not expired
    people = dict.fromkeys(v.person for v in counted for r in results if v.person in r.people)
    return Tally(
        complete=complete,
        vetoed=vetoed,
        expired=expired,
        people=tuple(people),
        missing=_missing(results, vetoed=vetoed, expired=expired, waiting=len(waiting_for)),
        sole_person=any(result.sole_person for result in results),
        earliest_at=max(r.full_at for r in results if r.full_at) + terms.cool_down if complete else None,
        waiting_for=waiting_for,
    )


# --- one rule ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Result:
    rule: QuorumRule
    people: tuple[str, ...]
    full_at: datetime | None
    sole_person: bool
    needed: int
    open_roles: tuple[Role, ...]


def _by_rule(
    votes: list[Vote], active: dict[str, Person], rule: QuorumRule, terms: Terms, *, is_only: bool
) -> _Result:
    holders = [p for p in active.values() if set(p.roles) & set(rule.roles)]
    sole = rule.quorum == 1 and len(holders) == 1
    alone = terms.alone and is_only and len(holders) == 1
    needed = 1 if alone else rule.quorum
    barred = frozenset() if sole or alone else terms.excluded
    fitting = [v for v in votes if v.role in rule.roles and v.person not in barred]
    distinct = rule.distinct_roles and not alone
    full_at = None
    for i, vote in enumerate(fitting):
        if len(_counting(fitting[: i + 1], distinct)) >= needed:
            full_at = vote.at
            break
    people = _counting(fitting, distinct)
    return _Result(rule, people, full_at, sole or alone, needed, _open_roles(fitting, rule, distinct))


def _open_roles(votes: Sequence[Vote], rule: QuorumRule, distinct: bool) -> tuple[Role, ...]:
    """The roles in which one more person would bring the group forward."""
    if not votes or not distinct:
        return rule.roles
    so_far = len(_counting(votes, distinct))
    # Nobody has an empty id, so this stands for anybody who has not signed yet.
    return tuple(
        role for role in rule.roles
        if len(_counting([*votes, replace(votes[0], person="", role=role)], distinct)) > so_far
    )  # fmt: skip


def _counting(votes: Sequence[Vote], distinct_roles: bool) -> tuple[str, ...]:
    """The largest group of different people, with no role twice where roles must differ."""
    offers: dict[str, list[Role]] = {}
    for vote in votes:
        offers.setdefault(vote.person, []).append(vote.role)
    if not distinct_roles:
        return tuple(offers)
    taken: dict[Role, str] = {}
    for person in offers:
        _assign(person, offers, taken, set())
    return tuple(person for person in offers if person in taken.values())


def _assign(person: str, offers: dict[str, list[Role]], taken: dict[Role, str], tried: set[Role]) -> bool:
    """Give a person a role of theirs, moving others to another of theirs if need be."""
    for role in offers[person]:
        if role in tried:
            continue
        tried.add(role)
        if role not in taken or _assign(taken[role], offers, taken, tried):
            taken[role] = person
            return True
    return False


# --- one vote ------------------------------------------------------------------------------


def _can_sign(person: Person) -> bool:
    return any(not key.revoked for key in person.keys)


def _holds(active: dict[str, Person], vote: Vote) -> bool:
    person = active.get(vote.person)
    return person is not None and vote.role in person.roles


def _is_informed(vote: Vote, terms: Terms) -> bool:
    return vote.surface in terms.surfaces and set(terms.require_viewed) <= set(vote.viewed)


def _in_time(vote: Vote, terms: Terms, now: datetime) -> bool:
    if not vote.approve and not vote.final:
        # Whoever asked for a change before the newest verdict still waits for it.
        return True
    deadline = _deadline(terms)
    not_before = terms.opened_at is None or vote.at >= terms.opened_at
    over = vote.approve and vote.expires_at is not None and now >= vote.expires_at
    return not_before and not over and vote.at <= now and (deadline is None or vote.at < deadline)


def _deadline(terms: Terms) -> datetime | None:
    ends = [terms.closes_at] if terms.closes_at is not None else []
    if terms.opened_at is not None and terms.expires_after is not None:
        ends.append(terms.opened_at + terms.expires_after)
    return min(ends, default=None)


# --- words ---------------------------------------------------------------------------------


def _missing(results: Sequence[_Result], *, vetoed: bool, expired: bool, waiting: int) -> str:
    if vetoed:
        return "rejected: nothing that is added now completes it"
    if expired:
        return "expired: nobody decided in time, and that means no"
    if not results:
        return "no rule says who may sign"
    sentences = []
    if waiting:
        who = "1 person asks" if waiting == 1 else f"{waiting} people ask"
        sentences.append(f"{who} for a change first")
    sentences += [_open_sentence(result) for result in results if result.full_at is None]
    return "; ".join(dict.fromkeys(sentences))


def _open_sentence(result: _Result) -> str:
    """Who is still needed, as people say it: ``needs 2 people: one operator and one safety``."""
    count, roles = result.needed - len(result.people), result.open_roles
    more = "more " if result.people else ""
    either = _either(roles)
    if count == 1:
        return f"needs 1 {more}person: {either}"
    if result.rule.distinct_roles and count == len(roles):
        return f"needs {count} {more}people: {_join([f'one {role}' for role in roles], 'and')}"
    if result.rule.distinct_roles:
        return f"needs {count} {more}people in different roles: {either}"
    return f"needs {count} {more}people, each {either}"


def _either(roles: Sequence[Role]) -> str:
    return _join([role.value for role in roles], "or")


def _join(words: Sequence[str], last: str) -> str:
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
