"""guardrails.ledger.roster, amendments, log-key succession and pinned roots: who may say who may decide.

The oracle of the property test counts people by hand; the tamper cases give an attacker the services' keys.
``test_roster_cli`` does the same by commands.
"""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest
from fakes import REVIEWABLE, Human, Site, verify
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guardrails import amendment as amendments
from guardrails import canonical
from guardrails.amendment import Amendment
from guardrails.codec import encode_record
from guardrails.decision_log import checkpoint as notes
from guardrails.decision_log.checkpoint import Checkpoint
from guardrails.decision_log.envelope import Envelope, Signature, Statement, open_envelope, seal
from guardrails.decision_log.keys import PersonKey, ServiceKey, person_keyid
from guardrails.decision_log.roots import parse_pins
from guardrails.decision_log.sshsig import ED25519, PublicKey
from guardrails.decision_log.store import Entry, Log
from guardrails.decision_log.tables import MemoryTables
from guardrails.errors import (
    DeniedError,
    InterlockError,
    InvalidInputError,
    LogVerificationError,
    StaleError,
    UsageError,
)
from guardrails.ledger import project
from guardrails.ledger.people import SERVICES
from guardrails.ledger.rows import RosterRow, read
from guardrails.records import Action, Key, Person, Predecessor, Role, Roster

POOL = [Human(f"r{i}", Role.ROOT) for i in range(4)]
KEYS = {name: ServiceKey.generate().public_base64 for name in SERVICES}
TIME = "2026-03-02T09:00:00.000000Z"


def roster_of(version: int, roots: frozenset[int], revoked: frozenset[int], threshold: int) -> Roster:
    people = tuple(
        Person(
            human.id, human.opening.commitment(), (Role.ROOT,) if index in roots else (Role.OPERATOR,),
            (Key(human.key.public, index in revoked),),
        )
        for index, human in enumerate(POOL)
    )  # fmt: skip
    return Roster(version, people, KEYS, threshold)


def entry_of(seq: int, roster: Roster, signers: frozenset[int]) -> Entry:
    body = encode_record(roster)
    subjects = {"roster": canonical.digest(canonical.encode(body))}
    statement = Statement("roster", subjects, body, "interlock/property", TIME)
    return Entry.parse(seq, seal(statement.encode(), *(POOL[index].key for index in sorted(signers))))


SUBSETS = st.frozensets(st.integers(0, 3))
FEW = st.frozensets(st.integers(0, 3), max_size=1)
STEPS = st.lists(st.tuples(SUBSETS, FEW, st.integers(0, 3), FEW, FEW), min_size=2, max_size=6)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_no_roster_enters_without_the_thresholds_of_old_and_new_roots(steps):
    """Each step: who are roots, whose key is revoked now, the threshold, who fails to sign, who signs unasked."""
    tables, seq, revoked = MemoryTables(), 0, frozenset()
    old_able, old_threshold = frozenset(), 0
    for roots, newly_revoked, threshold, missing, unasked in steps:
        gone = revoked | newly_revoked
        able = roots - gone
        signers = (able | old_able) - missing | unasked
        if not signers:
            continue
        allowed = (
            1 <= threshold <= len(able)
            and len(signers & able) >= threshold
            and len(signers & old_able) >= old_threshold
            and signers <= old_able | able
        )
        trial = MemoryTables()
        for name in tables.names():
            for key, value in tables.scan(name):
                trial.put(name, key, value)
        try:
            project(trial, entry_of(seq, roster_of(seq + 1, roots, gone, threshold), signers))
        except InterlockError:
            assert not allowed
            continue
        assert allowed
        tables, seq, revoked, old_able, old_threshold = trial, seq + 1, gone, able, threshold
        assert read(tables, RosterRow).roster.version == seq


def test_the_property_reaches_both_ends():
    """A positive control: a hand-over from two roots to two others, and its refusals."""
    none = frozenset()
    first = entry_of(0, roster_of(1, frozenset({0, 1}), none, 2), frozenset({0, 1}))
    handover = roster_of(2, frozenset({2, 3}), none, 2)
    for signers, accepted in ((frozenset({0, 1, 2, 3}), True), (frozenset({0, 1, 2}), False),
                              (frozenset({1, 2, 3}), False), (frozenset({2, 3}), False)):  # fmt: skip
        tables = MemoryTables()
        project(tables, first)
        if accepted:
            project(tables, entry_of(1, handover, signers))
        else:
            with pytest.raises(DeniedError, match=r"signed by [01] of the 2"):
                project(tables, entry_of(1, handover, signers))


# --- what no roster may be ---------------------------------------------------------------------


@pytest.fixture
def site(folder):
    made = Site(folder / "site")
    yield made
    made.close()


def refused(site: Site, roster: Roster, match: str, *signers: PersonKey, kind=DeniedError) -> None:
    size = len(site.kinds())
    with pytest.raises(kind, match=match):
        site.gate.commit_roster(
            seal(site.gate.draft_roster(roster), *(signers or (site.people["ada"].key,))), []
        )
    assert len(site.kinds()) == size


def test_nobody_and_no_key_leaves_and_revocation_is_final(site):
    roster = site.roster()
    refused(site, replace(roster, people=roster.people[:-1]), "p-di left the roster")
    bare = replace(roster.people[1], keys=())
    refused(
        site, replace(roster, people=(roster.people[0], bare, *roster.people[2:])), "of p-bo left the roster"
    )
    site.enrol(revoked=(site.people["bo"].key.public,))
    refused(site, site.roster(), "was revoked and cannot come back")


def test_a_key_means_one_person(site):
    roster = site.roster()
    ada, bo = roster.people[0], roster.people[1]
    shared = replace(bo, keys=(*bo.keys, ada.keys[0]))
    refused(site, replace(roster, people=(ada, shared, *roster.people[2:])), "a key stands twice")
    spelt = replace(bo, keys=(Key(f"{bo.keys[0].public} bo@laptop"),))
    refused(site, replace(roster, people=(ada, spelt, *roster.people[2:])), "not written as 'type base64'")


def test_service_keys_are_one_each_and_nobody_s(site):
    roster = site.roster()
    import base64

    gate = PublicKey(ED25519, base64.b64decode(roster.services["gate"])).text
    spy = Person("p-spy", site.people["bo"].opening.commitment(), (Role.OPERATOR,), (Key(gate),))
    refused(site, replace(roster, people=(*roster.people, spy)), "stands in the roster as a person's")
    same = {**roster.services, "gate": roster.services["evaluator"]}
    refused(site, replace(roster, services=same), "two services have the same key")
    refused(site, replace(roster, services={"log": roster.services["log"]}), "a key for each of")


def test_a_predecessor_stands_in_the_first_roster_only(site):
    later = replace(site.roster(), predecessor=Predecessor("interlock/old", 3, "0" * 64))
    refused(site, later, "only the first roster")


def test_one_signature_under_two_key_ids_is_one_root(folder):
    site = Site(folder / "site", people=(("ada", Role.OPERATOR, Role.ROOT), ("bo", Role.ROOT)))
    ada, bo = site.people["ada"].key, site.people["bo"].key
    payload = site.gate.draft_roster(site.roster(threshold=2))
    signed = open_envelope(seal(payload, ada)).signatures[0]
    for twice in (Signature(bo.keyid, signed.signature), Signature("somebody", signed.signature)):
        with pytest.raises(DeniedError, match=r"its own roots\): signed by 1 of the 2"):
            site.gate.commit_roster(Envelope(payload, (signed, twice)).encode(), [])
    site.gate.commit_roster(seal(payload, ada, bo), [])
    site.close()


def test_a_signature_by_somebody_who_is_no_root_spoils_a_roster(site):
    refused(site, site.roster(), "is by no root", site.people["ada"].key, site.people["bo"].key)


# --- tampering, with the services' keys in hand ------------------------------------------------


def unchecked(tables, entry) -> None:
    """An attacker's projection: everything goes."""


def test_a_former_version_of_the_roster(site):
    with site.log.read() as snapshot:
        first = snapshot.entry(0)
    statement = replace(first.statement, time=site.clock.text)
    site.inject(seal(statement.encode(), site.people["ada"].key), projection=unchecked)
    found = site.verify()
    assert "roster version 1 does not follow 1" in found.reason
    assert found.index == len(site.kinds()) - 1


def test_a_log_with_another_founder(folder):
    """Everything about it holds, except that nobody who is pinned founded it."""
    honest = Site(folder / "honest")
    forged = Site(folder / "forged", people=(("eve", Role.OPERATOR, Role.ROOT), ("bo", Role.SAFETY)))
    pinned = honest.people["ada"].key.public
    assert honest.verify(root_pins=[pinned]).ok
    assert forged.verify().ok, "only the pin can tell"
    found = forged.verify(root_pins=[pinned])
    assert (found.index, found.reason) == (0, "the first roster is not signed by the root key that was given")
    honest.close()
    forged.close()


def test_two_keys_of_one_person_are_one_vote(folder):
    site = Site(folder / "site")
    second = PersonKey.generate()
    grown = amendments.with_key(
        amendments.following(replace(site.roster(), version=1)), "p-bo", second.public
    )
    site.gate.commit_roster(seal(site.gate.draft_roster(grown), site.people["ada"].key), [])
    proposal = site.judged(REVIEWABLE)
    assert site.approve("bo", proposal).state == "awaiting_approval"
    draft = site.draft("bo", Action.APPROVE, proposal)
    with pytest.raises(DeniedError, match="has approved already"):
        site.gate.commit(draft, second)
    site.close()


def test_a_key_revoked_after_it_approved_counts_no_more_for_what_is_open(site):
    done, waiting = site.judged(), site.judged(REVIEWABLE)
    site.approve("bo", waiting)
    assert site.approve("cy", done).state == "promoted"
    site.enrol(revoked=(site.people["bo"].key.public, site.people["cy"].key.public))
    assert site.verify().ok, "what was promoted before stays justified"
    fresh = site.judged(REVIEWABLE)
    with pytest.raises(DeniedError, match="not signed by a key of p-bo that is in force"):
        site.approve("bo", fresh)


# --- the log's key has a successor -------------------------------------------------------------


def rotate(site: Site, name: str = "log") -> tuple[ServiceKey, ServiceKey]:
    """Give a service a new key, as the command does; returns the former and the new one."""
    former, fresh = site.services[name], ServiceKey.generate()
    site.services[name] = fresh
    site.gate.commit_roster(
        seal(site.gate.draft_roster(site.roster()), site.people["ada"].key), [], {name: fresh}
    )  # fmt: skip
    site.version += 1
    return former, fresh


def stored_notes(site: Site) -> dict[int, str]:
    with site.log.read() as snapshot:
        return {notes.parse(note)[0].size: note for note in snapshot.checkpoints()}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_s_key_is_replaced_and_everything_before_and_after_holds(site, name):
    site.promoted()
    rotate(site, name)
    site.promoted()
    rotate(site, name)
    site.promoted()
    assert site.verify().ok
    again = site.open()
    again.tick()
    again.log.close()


def test_the_checkpoint_of_the_change_is_signed_by_both_keys(site):
    former, fresh = rotate(site)
    size = len(site.kinds())
    by_size = stored_notes(site)
    for key in (former, fresh):
        assert notes.verify(by_size[size], site.log.origin, key.public_base64).size == size
    with pytest.raises(LogVerificationError):
        notes.verify(by_size[size - 1], site.log.origin, fresh.public_base64)
    site.promoted()
    for later in (note for at, note in stored_notes(site).items() if at > size):
        with pytest.raises(LogVerificationError):
            notes.verify(later, site.log.origin, former.public_base64)


def replace_note(site: Site, size: int, key: ServiceKey) -> None:
    with site.log.read() as snapshot:
        from guardrails.decision_log import merkle

        tree = merkle.Tree()
        for entry in snapshot.entries(0, size):
            tree.append(bytes.fromhex(entry.leaf))
    note = notes.sign(Checkpoint(site.log.origin, size, tree.root().hex()), key)
    with sqlite3.connect(site.folder / "log.db") as connection:
        for (name,) in connection.execute("select name from sqlite_master where type = 'trigger'").fetchall():
            connection.execute(f'drop trigger "{name}"')
        assert (
            connection.execute("update checkpoints set note = ? where size = ?", (note, size)).rowcount == 1
        )


@pytest.mark.parametrize("when", ["former key afterwards", "new key before"])
def test_a_log_key_counts_only_where_its_roster_is_in_force(site, when):
    former, fresh = rotate(site)
    at = len(site.kinds())
    site.promoted()
    assert site.verify().ok
    size, key = (at + 1, former) if when == "former key afterwards" else (at - 1, fresh)
    replace_note(site, size, key)
    found = site.verify()
    assert not found.ok
    assert f"checkpoint of size {size}: not signed by this log's key" in found.reason


def test_a_process_that_still_has_the_former_log_key_writes_nothing(site):
    running = site.open()
    rotate(site)
    size = len(site.kinds())
    with pytest.raises(StaleError, match="the log's key was replaced"):
        running.record_proposal(site.submission("late"))
    assert len(site.kinds()) == size
    running.log.close()


def test_a_roster_that_names_a_key_nobody_here_has_does_not_enter(site):
    stranger = ServiceKey.generate().public_base64
    roster = site.roster()
    for name in SERVICES:
        refused(site, replace(roster, services={**roster.services, name: stranger}), "key .*is not here")


# --- amendments --------------------------------------------------------------------------------


def test_an_amendment_says_what_it_changes_and_goes_through_a_file(site):
    site.enrol()
    with site.log.read() as snapshot:
        former = read(snapshot.tables, RosterRow).roster
    eve = Human("eve", Role.OPERATOR)
    grown = amendments.with_person(amendments.following(former), eve.entry())
    grown = amendments.without_keys(grown, "p-bo")
    grown = amendments.with_roles(grown, "p-cy", (Role.OPERATOR, Role.ROOT))
    grown = replace(amendments.with_service(grown, "gate", ServiceKey.generate().public_base64), threshold=2)
    amendments.require_acceptable(former, grown)
    made = Amendment(site.gate.draft_roster(grown), openings=(eve.opening,))
    told = amendments.changes(former, made.roster, lambda person: person)
    assert told[0] == "changes need 2 roots instead of 1"
    for part in ("p-eve (p-eve) joins as operator", f"key {person_keyid(site.people['bo'].key.public)} of p-bo",
                 "p-cy (p-cy): operator, root instead of operator", "the gate service signs with"):  # fmt: skip
        assert any(part in sentence for sentence in told), part
    assert amendments.changes(former, former, str) == ()
    assert made.missing(former) == (1, 2)
    both = made.signed(site.people["ada"].key, site.people["cy"].key)
    assert both.missing(former) == (0, 0)
    assert Amendment.decode(both.encode(), "f") == both
    with pytest.raises(DeniedError, match="changes nothing"):
        amendments.require_acceptable(former, amendments.following(former))


@pytest.mark.parametrize("change", [
    lambda text: text[:-9], lambda text: text.replace("roster-amendment", "recipe"),
    lambda text: text.replace("eve", "mallory"), lambda text: "[]", lambda text: '{"schema": "interlock/v1"}',
])  # fmt: skip
def test_a_damaged_amendment_is_refused(site, change):
    eve = Human("eve", Role.OPERATOR)
    grown = amendments.with_person(amendments.following(replace(site.roster(), version=1)), eve.entry())
    text = Amendment(site.gate.draft_roster(grown), openings=(eve.opening,)).encode().decode()
    assert Amendment.decode(text.encode(), "f").roster == grown
    with pytest.raises(InvalidInputError, match="f: not a proposed roster"):
        Amendment.decode(change(text).encode(), "f")


# --- pinned roots ------------------------------------------------------------------------------


def test_a_list_of_pins_is_never_silently_empty():
    key = PersonKey.generate().public
    assert parse_pins(f"# one\n{key} ada@home\n{key}\n", "f") == (key,)
    for text in ("", "# nothing\n", "nonsense", "ssh-rsa AAAA", f"{key[:-4]}"):
        with pytest.raises(UsageError, match="f: "):
            parse_pins(text, "f")


def test_verify_is_given_pins_by_whoever_asks(site):
    assert verify(site.url, site.store, root_pins=[site.people["ada"].key.public]).ok
    assert not verify(site.url, site.store, root_pins=[site.people["bo"].key.public]).ok


def test_the_log_key_is_not_replaced_in_the_store_alone(site):
    """Whoever has only a new key, and no roster that names it, cannot go on with the log."""
    with (
        Log.open(site.url, ServiceKey.generate(), project) as log,
        pytest.raises(StaleError, match="the log's key was replaced"),
        log.transaction(),
    ):
        pass
