"""guardrails.ledger: whatever people, services and time do in any order, the rules about champions hold.

A state machine does random things, most of them not allowed, through the gate and past it with the services'
own keys. After each step an oracle that shares no rule with the ledger reads the new records and says which
champion there must be and whether each promotion was permitted.
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace
from datetime import timedelta

from fakes import (
    ADA,
    BLOCKED,
    BO,
    BROKEN,
    CY,
    DI,
    INCONCLUSIVE,
    MODEL,
    PASSING,
    REVIEWABLE,
    Site,
    memory_folder,
    policy,
)
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from guardrails import canonical
from guardrails.decision_log.envelope import PAYLOAD_TYPE, format_time, pae
from guardrails.decision_log.keys import verify_person, verify_service
from guardrails.decision_log.tables import MemoryTables
from guardrails.errors import InterlockError, JobFailedError
from guardrails.ledger import project
from guardrails.ledger.requests import WORKSPACE
from guardrails.ledger.rows import proposals_in
from guardrails.records import Action, Promotion, Role, Rollback, VerdictKind, Waiver

NAMES = ("ada", "bo", "cy", "di")
POLICIES = (
    policy(),
    policy(coolDown="30m"),
    policy(onEligible="{quorum: 2, roles: [operator, safety], distinctRoles: true}"),
    policy(resume="{quorum: 2, roles: [operator, safety]}"),
    policy(rollback="{quorum: 2, roles: [operator, safety]}"),
)
NEEDED = {
    str(source.digest): {"eligible": 2 if i == 2 else 1, "review": 2} for i, source in enumerate(POLICIES)
}
"""What each policy asks for, written down by hand: digest → verdict → number of people."""

people = st.sampled_from(NAMES)
proposals = st.integers(0, 3)
"""Which proposal, counting from the newest."""
contents = st.sampled_from([*"abcdefgh", "base"])
measured = st.sampled_from([PASSING, PASSING, REVIEWABLE, INCONCLUSIVE, BLOCKED, BROKEN])


class Oracle:
    """What the records alone come to, worked out anew and differently."""

    def __init__(self) -> None:
        self.champions: dict[str, str] = {}
        self.seen: list[tuple[str, dict]] = []
        self.roster: dict = {}
        self.policies: dict[str, str] = {}
        self.halted = False
        self.promotions = self.rollbacks = 0

    def read(self, entry) -> None:
        """Take one record into account; fails if it moves a champion without permission."""
        kind, body = entry.statement.record, entry.statement.body
        if kind not in ("roster", "decision"):
            service = {"proposal": "learner", "evidence": "evaluator"}.get(kind, "gate")
            message = pae(PAYLOAD_TYPE, entry.statement.encode())
            verify_service(self.roster["services"][service], message, entry.signatures[0].signature)
        if kind == "roster":
            self.roster = dict(body)
        elif kind == "decision":
            self._decision(entry, body)
        elif kind == "promotion":
            self._promotion(entry, body)
        elif kind == "rollback":
            self._rollback(body)
        self.seen.append((f"sha256:{entry.leaf}", {"kind": kind, "body": body, "entry": entry}))

    def _decision(self, entry, body) -> None:
        person = self.person(body["person"])
        assert body["role"] in person["roles"]
        assert self.is_signed(entry, person), "somebody else's signature was accepted"
        if body["action"] == "adopt":
            assert "root" in person["roles"]
            assert body["target"] not in self.champions
            self.champions[body["target"]] = body["digest"]

    def _promotion(self, entry, body) -> None:
        assert not self.halted, "a promotion during a halt"
        records = dict(self.seen)
        mine = [
            (leaf, r) for leaf, r in self.seen
            if r["body"].get("proposal") == body["proposal"] or r["body"].get("target") == body["proposal"]
        ]  # fmt: skip
        leaf, verdict = [(leaf, r) for leaf, r in mine if r["kind"] == "verdict"][-1]
        evidence_leaf, evidence = [(leaf, r) for leaf, r in mine if r["kind"] == "evidence"][-1]
        assert verdict["body"]["kind"] in ("eligible", "review")
        assert verdict["body"]["evidence"] == evidence_leaf
        assert verdict["body"]["policies"] == self.policies
        assert evidence["body"]["champion"] == body["previous"] == self.champions[body["model"]]
        assert evidence["body"]["bundle"] == body["bundle"]
        after = mine[[leaf for leaf, _ in mine].index(leaf) :]
        assert not [r for _, r in after if r["body"].get("action") == "reject"], "a veto was ignored"
        assert not self.waited_for(mine), "a request for change was ignored"
        assert body.get("rehearsed") == body["previous"]
        opened = [leaf for leaf, r in mine if r["body"].get("state") == "measuring"]
        assert evidence["body"].get("measurement") == opened[-1]
        voters = {}
        for decision in body["decisions"]:
            vote = records[decision]["body"]
            person = self.person(vote["person"])
            assert (vote["action"], vote["target"]) == ("approve", body["proposal"])
            assert vote["binding"]["verdict"] == leaf
            assert vote["binding"]["roster"] == self.roster["version"]
            assert vote["role"] in person["roles"]
            assert self.is_signed(records[decision]["entry"], person)
            taken_back = [
                r for _, r in self.seen
                if r["body"].get("action") == "withdraw" and r["body"]["person"] == vote["person"]
                and r["body"]["target"] == body["proposal"] and r["entry"].seq > records[decision]["entry"].seq
            ]  # fmt: skip
            assert not taken_back, "a withdrawn approval was counted"
            voters[vote["person"]] = vote["role"]
        needed = max(NEEDED[digest][verdict["body"]["kind"]] for digest in self.policies.values())
        assert len(voters) == len(body["decisions"]) >= needed
        assert set(voters.values()) <= {"operator", "safety"}
        if needed == 2:
            assert len(set(voters.values())) >= 2, "two people in the same role"
        self.champions[body["model"]] = body["bundle"]
        self.promotions += 1

    def waited_for(self, mine) -> set[str]:
        """Who asked for a change and has neither approved since nor taken it back."""
        waiting = set()
        for _, record in mine:
            action, who = record["body"].get("action"), record["body"].get("person")
            if action == "request-changes":
                waiting.add(who)
            elif action in ("approve", "withdraw"):
                waiting.discard(who)
        return waiting & {p["id"] for p in self.roster["people"] if not all(k["revoked"] for k in p["keys"])}

    def _rollback(self, body) -> None:
        assert body["previous"] == self.champions[body["model"]]
        asked = [r["body"] for _, r in self.seen if r["body"].get("request") == body["request"]]
        assert not [r for r in asked if r["action"] == "reject"], "a rejected request was carried out"
        assert {r["terms"]["champion"] for r in asked if r["action"] == "rollback"} == {body["previous"]}
        gone = {r["person"] for r in asked if r["action"] == "withdraw"}
        records = dict(self.seen)
        votes = [records[leaf]["body"] for leaf in body["decisions"]]
        counted = [v for v in votes if {"operator", "safety"} & set(self.person(v["person"])["roles"])]
        assert counted, (
            "nobody who may decide asked for it"
        )  # anybody may ask: an auditor's signature is kept too
        for vote in votes:
            assert (vote["action"], vote["target"], vote["digest"]) == (
                "rollback",
                body["model"],
                body["bundle"],
            )
            again = [r for r in asked if (r["person"], r["action"]) == (vote["person"], "rollback")]
            assert vote["person"] not in gone or len(again) > 1, "a signature that was taken back was counted"
        self.champions[body["model"]] = body["bundle"]
        self.rollbacks += 1

    def person(self, person_id: str) -> dict:
        return next(p for p in self.roster["people"] if p["id"] == person_id)

    @staticmethod
    def is_signed(entry, person: dict) -> bool:
        for key in person["keys"]:
            if not key["revoked"]:
                try:
                    verify_person(
                        key["public"],
                        pae(PAYLOAD_TYPE, entry.statement.encode()),
                        entry.signatures[0].signature,
                    )
                except InterlockError:
                    continue
                return True
        return False


class Workspace(RuleBasedStateMachine):
    """A workspace to which anything is done."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = memory_folder()
        self.site = Site(self.folder, people=(ADA, BO, CY, DI))
        self.oracle, self.replayed, self.read_to = Oracle(), MemoryTables(), 0
        self.drafts: list = []
        self.champion = ""

    def teardown(self) -> None:
        found = self.site.verify()
        assert found.ok, found
        self.site.close()
        shutil.rmtree(self.folder)

    def named(self, back: int) -> str:
        """The id of a proposal, counted from the newest; one that is not there if there are too few."""
        with self.site.log.read() as snapshot:
            ids = [key for key, _ in snapshot.tables.scan("proposals")]
        return ids[-1 - back] if back < len(ids) else "P-0999"

    def do(self, step, *arguments, **fields):
        """Try something; the rules may refuse it, in words meant for people."""
        with contextlib.suppress(InterlockError):
            return step(*arguments, **fields)
        return None

    # --- what the services do ------------------------------------------------------------

    @initialize(content=contents)
    def begin(self, content):
        self.do(self.site.judged, PASSING, content)

    @rule(content=contents, measurement=measured)
    def whole_round(self, content, measurement):
        self.do(self.site.judged, measurement, content)

    @rule(content=contents, who=st.sampled_from(["loop", "p-ada", "p-cy"]))
    def propose(self, content, who):
        self.do(self.site.propose, content, proposer=who)

    @rule(proposal=proposals, measurement=measured)
    def measure(self, proposal, measurement):
        proposal = self.named(proposal)
        self.do(self.site.measure, proposal, measurement)

    @rule(proposal=proposals)
    def begin_measurement(self, proposal):
        proposal = self.named(proposal)
        self.do(self.site.gate.begin_measurement, proposal)

    @rule(proposal=proposals)
    def judge(self, proposal):
        proposal = self.named(proposal)
        self.do(self.site.gate.judge, proposal)

    @rule(proposal=proposals)
    def fail(self, proposal):
        proposal = self.named(proposal)
        self.do(self.site.gate.record_failure, MODEL, "measure", "x", JobFailedError("broken"), proposal)

    @rule(minutes=st.sampled_from([1, 1, 31, 31, 60 * 24, 60 * 73]))
    def time_passes(self, minutes):
        self.site.clock.pass_(minutes=minutes)
        self.do(self.site.gate.tick)

    @rule(content=contents)
    def promote(self, content):
        proposal = self.do(self.site.judged, PASSING, content)
        for who in ("ada", "bo") if proposal else ():
            self.do(self.site.approve, who, proposal)

    # --- what people do ------------------------------------------------------------------

    @rule(who=people, proposal=proposals, role=st.sampled_from([None, Role.OPERATOR, Role.SAFETY]))
    def approve(self, who, proposal, role):
        proposal = self.named(proposal)
        self.do(self.site.approve, who, proposal, role=role)

    @rule(proposal=proposals)
    def both_approve(self, proposal):
        proposal = self.named(proposal)
        self.do(self.site.approve, "ada", proposal)
        self.do(self.site.approve, "bo", proposal)

    @rule(who=people, proposal=proposals, action=st.sampled_from([Action.REJECT, Action.WITHDRAW]))
    def say_no(self, who, proposal, action):
        proposal = self.named(proposal)
        self.do(self.site.decide, who, action, proposal)

    @rule(who=people, proposal=proposals)
    def ask_for_a_change(self, who, proposal):
        proposal = self.named(proposal)
        self.do(self.site.decide, who, Action.REQUEST_CHANGES, proposal)

    @rule(who=people, number=st.integers(1, 9), proposal=proposals)
    def comment(self, who, number, proposal):
        self.do(self.site.decide, who, Action.COMMENT, self.named(proposal))
        self.do(self.site.decide, who, Action.COMMENT, f"R-{number:04d}")

    @rule(
        who=people,
        number=st.integers(1, 9),
        action=st.sampled_from([Action.REJECT, Action.WITHDRAW, Action.REVOKE]),
    )
    def close_a_request(self, who, number, action):
        self.do(self.site.decide, who, action, f"R-{number:04d}")

    @rule(who=people, hours=st.sampled_from([1, 24]), proposal=proposals)
    def approve_for_a_while(self, who, hours, proposal):
        end = format_time(self.site.clock.time + timedelta(hours=hours))
        self.do(self.site.approve, who, self.named(proposal), expires_at=end)

    @rule(who=people, proposal=proposals, action=st.sampled_from([Action.APPROVE, Action.WITHDRAW]))
    def prepare(self, who, proposal, action):
        proposal = self.named(proposal)
        draft = self.do(self.site.draft, who, action, proposal)
        if draft:
            self.drafts.append((who, draft))

    @precondition(lambda self: self.drafts)
    @rule(which=st.integers(0, 20), signer=st.sampled_from([None, *NAMES]))
    def sign_what_was_prepared(self, which, signer):
        who, draft = self.drafts[which % len(self.drafts)]
        self.do(self.site.gate.commit, draft, self.site.people[signer or who].key)

    @rule(who=people)
    def halt(self, who):
        self.do(self.site.decide, who, Action.HALT, WORKSPACE)

    @rule(who=people)
    def resume(self, who):
        self.do(self.site.decide, who, Action.RESUME, WORKSPACE)

    @rule()
    def all_resume(self):
        for who in NAMES:
            self.resume(who)

    @rule(who=people, back=st.integers(0, 3))
    def roll_back(self, who, back):
        history = self.site.model().history
        self.do(self.site.rollback, who, history[back % len(history)].digest)

    @rule(who=people, source=st.sampled_from(POLICIES))
    def activate(self, who, source):
        self.do(self.site.decide, who, Action.ACTIVATE, "main", policy=source)

    @rule(who=people)
    def deactivate(self, who):
        self.do(self.site.decide, who, Action.DEACTIVATE, "main")

    @rule(who=people, proposal=proposals, which=st.sampled_from(["pii", "weights"]))
    def waive(self, who, proposal, which):
        proposal = self.named(proposal)
        row = self.do(self.site.row, proposal)
        if row and row.proposal:
            end = format_time(self.site.clock.time.replace(minute=0, second=0, microsecond=0, year=2027))
            waiver = Waiver(which, row.proposal.bundle, "p-ada", end)
            self.do(self.site.decide, who, Action.WAIVE, proposal, waiver=waiver)

    @rule(revoked=st.sampled_from([(), ("bo",), ("cy",)]))
    def new_roster(self, revoked):
        self.do(self.site.enrol, revoked=tuple(self.site.people[name].key.public for name in revoked))

    # --- what somebody with the services' keys does ----------------------------------------

    @rule(proposal=proposals, honest=st.booleans())
    def forge_a_promotion(self, proposal, honest):
        proposal = self.named(proposal)
        row, model = self.do(self.site.row, proposal), self.site.model()
        if row is None or row.proposal is None:
            return
        votes = tuple(vote.record for vote in row.votes) if honest else ()
        record = Promotion(proposal, MODEL, row.proposal.bundle, model.champion, votes, False, model.champion)
        self.do(self.site.inject, self.site.sealed(record, self.site.services["gate"]))

    @rule(back=st.integers(0, 3), number=st.integers(1, 9))
    def forge_a_rollback(self, back, number):
        model = self.site.model()
        target = model.history[back % len(model.history)].digest
        record = Rollback(f"R-{number:04d}", MODEL, target, model.champion, (), (), False)
        self.do(self.site.inject, self.site.sealed(record, self.site.services["gate"]))

    @rule(proposal=proposals)
    def forge_a_verdict(self, proposal):
        proposal = self.named(proposal)
        row = self.do(self.site.row, proposal)
        if row and row.verdict:
            forged = replace(row.verdict, kind=VerdictKind.ELIGIBLE)
            self.do(self.site.inject, self.site.sealed(forged, self.site.services["evaluator"]))

    @precondition(lambda self: self.read_to > 0)
    @rule(which=st.integers(0, 200))
    def replay_a_record(self, which):
        with self.site.log.read() as snapshot:
            envelope = snapshot.entry(which % snapshot.size).envelope
        self.do(self.site.inject, envelope)

    # --- what must hold ------------------------------------------------------------------

    @invariant()
    def proposals_are_found_by_label(self):
        with self.site.log.read() as stored, self.site.log.read_proven() as proven:
            for label in ("open", "promoted", "barred"):
                assert list(proposals_in(proven.tables, label)) == list(proposals_in(stored.tables, label))

    @invariant()
    def the_rules_hold(self):
        with self.site.log.read() as snapshot:
            for entry in snapshot.entries(self.read_to):
                self.oracle.policies = {
                    key: str(canonical.Digest.parse(row["source"]["digest"]))
                    for key, row in self.replayed.scan("policies")
                }
                workspace = self.replayed.get("workspace", "current") or {}
                self.oracle.halted = bool(workspace.get("halted_by"))
                self.oracle.read(entry)
                project(self.replayed, entry)
            self.read_to = snapshot.size
            assert set(self.replayed.names()) == set(snapshot.tables.names())
            for name in self.replayed.names():
                assert dict(self.replayed.scan(name)) == dict(snapshot.tables.scan(name)), name
            models = dict(snapshot.tables.scan("models"))
        assert {name: row["champion"] for name, row in models.items()} == self.oracle.champions
        for row in models.values():
            assert row["history"][-1]["digest"] == row["champion"]


def test_no_order_of_events_breaks_the_rules():
    rare = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large)
    run_state_machine_as_test(
        Workspace,
        settings=settings(max_examples=12, stateful_step_count=35, deadline=None, suppress_health_check=rare),
    )


def test_the_machine_can_reach_what_it_is_about():
    """The control: the same machine's steps do lead to promotions and rollbacks that the oracle sees."""
    machine = Workspace()
    machine.begin("a")
    machine.both_approve(0)
    machine.the_rules_hold()
    machine.whole_round("b", REVIEWABLE)
    machine.both_approve(0)
    machine.roll_back("bo", 0)
    machine.the_rules_hold()
    assert (machine.oracle.promotions, machine.oracle.rollbacks) == (2, 1)
    machine.teardown()


def test_an_auditor_may_ask_for_a_rollback_but_does_not_decide_it():
    machine = Workspace()
    machine.begin("a")
    machine.both_approve(0)
    machine.roll_back("di", 0)
    machine.the_rules_hold()
    assert machine.oracle.rollbacks == 0
    machine.roll_back("ada", 0)
    machine.the_rules_hold()
    assert machine.oracle.rollbacks == 1
    machine.teardown()


def test_the_oracle_notices_a_promotion_that_nobody_permitted():
    """The control: with a ledger that lets everything pass, the machine's invariant fails."""
    machine = Workspace()
    machine.begin("a")
    machine.the_rules_hold()
    row, model = machine.site.row("P-0001"), machine.site.model()
    record = Promotion("P-0001", MODEL, row.proposal.bundle, model.champion, (), False, model.champion)
    machine.site.inject(
        machine.site.sealed(record, machine.site.services["gate"]), projection=lambda tables, entry: None
    )
    try:
        machine.the_rules_hold()
    except AssertionError:
        return
    finally:
        machine.site.close()
        shutil.rmtree(machine.folder)
    raise AssertionError("the oracle saw nothing")
