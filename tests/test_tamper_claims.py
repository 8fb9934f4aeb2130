"""Tampering by false claims, in a table: who signed, what was decided on, what services say of themselves.

The attacker writes the database and holds the keys of the log and of every service; with ``re-signed`` also those of
one person. Each case begins with the control that the untouched copy verifies, and must fail for its own reason.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from attacked_log import OTHER, Case, Copy, Table, bound, decision, promotion, untouched
from fakes import MODEL, Human

from guardrails.decision_log.envelope import format_time
from guardrails.records import Action, Failure, ModelKind, Role, State, Transition, Waiver

TABLE = Table()
case = TABLE.case


@pytest.fixture
def copy(story, folder):
    return untouched(story, folder / "copy")


# --- who signed -----------------------------------------------------------------------------------------


@case("a verdict signed by the evaluator", "not signed by the gate service")
def _(copy):
    seq = copy.find("verdict")
    copy.rewrite(copy.remade(seq, lambda s: s, copy.site.services["evaluator"])[: seq + 1])


@case("evidence signed by the learner", "not signed by the evaluator service")
def _(copy):
    seq = copy.find("evidence")
    copy.rewrite(copy.remade(seq, lambda s: s, copy.site.services["learner"])[: seq + 1])


@case("an approval by a service's key", "not signed by a key of p-ada")
def _(copy):
    copy.append(decision(copy, "ada", Action.APPROVE, "P-0004", signer=copy.site.services["gate"]))


@case("an approval by a key that nobody knows", "not signed by a key of p-ada")
def _(copy):
    copy.append(decision(copy, "ada", Action.APPROVE, "P-0004", signer=Human("eve").key))


@case("an approval in the name of a colleague", "not signed by a key of p-ada")
def _(copy):
    copy.append(decision(copy, "ada", Action.APPROVE, "P-0004", signer=copy.site.people["bo"].key))


@case("an approval by somebody who is not in the roster", "is not in roster")
def _(copy):
    copy.append(decision(copy, "ada", Action.APPROVE, "P-0004", lambda d: replace(d, person="p-eve")))


@case("an approval in a role that one does not hold", "does not hold the role safety")
def _(copy):
    copy.append(decision(copy, "ada", Action.APPROVE, "P-0002", lambda d: replace(d, role=Role.SAFETY)))


@case("a decision for another roster", "prepared under roster 9")
def _(copy):
    copy.append(decision(copy, "bo", Action.APPROVE, "P-0002", lambda d: replace(d, roster=9)))


@case("a roster by a root of one's own", "signed by 0 of the 1 roots needed")
def _(copy):
    eve = Human("eve", Role.ROOT, Role.OPERATOR)
    roster = copy.site.roster()
    copy.append(copy.site.sealed(replace(roster, people=(*roster.people, eve.entry())), eve.key))


@case("a roster once more", "does not follow")
def _(copy):
    roster = replace(copy.site.roster(), version=1)
    copy.append(copy.site.sealed(roster, copy.site.people["ada"].key, time=format_time(copy.site.clock.time)))


@case("a roster that passes over a version", "does not follow")
def _(copy):
    copy.append(copy.site.sealed(replace(copy.site.roster(), version=7), copy.site.people["ada"].key))


@case("a roster without a root", "needs at least one root")
def _(copy):
    people = tuple(replace(person, roles=(Role.OPERATOR,)) for person in copy.site.roster().people)
    copy.append(copy.site.sealed(replace(copy.site.roster(), people=people), copy.site.people["ada"].key))


@case("one human with two entries", "a person stands twice in the roster")
def _(copy):
    roster = copy.site.roster()
    copy.append(
        copy.site.sealed(
            replace(roster, people=(*roster.people, roster.people[0])), copy.site.people["ada"].key
        )
    )


@case("one key for two people", "a key stands twice in the roster")
def _(copy):
    roster = copy.site.roster()
    twin = replace(roster.people[1], id="p-twin")
    copy.append(copy.site.sealed(replace(roster, people=(*roster.people, twin)), copy.site.people["ada"].key))


# --- what was decided on -----------------------------------------------------------------------------


@case("an approval bound to another artifact", "changed since this was prepared")
def _(copy):
    copy.append(decision(copy, "bo", Action.APPROVE, "P-0002", bound(bundle=OTHER)))


@case("an approval replayed to another proposal", "changed since this was prepared")
def _(copy):
    copy.append(
        decision(
            copy, "ada", Action.APPROVE, "P-0002", lambda d: replace(d, target="P-0004", request="P-0004")
        )
    )


@case("an approval of other evidence", "changed since this was prepared")
def _(copy):
    copy.append(decision(copy, "bo", Action.APPROVE, "P-0002", bound(evidence=OTHER)))


@case("an approval with the verdict of another proposal", "changed since this was prepared")
def _(copy):
    verdict = copy.site.row("P-0004").verdict_record
    copy.append(decision(copy, "bo", Action.APPROVE, "P-0002", bound(verdict=verdict)))


@case("an approval under an older policy", "changed since this was prepared")
def _(copy):
    copy.append(decision(copy, "bo", Action.APPROVE, "P-0002", bound(policies={"main": str(OTHER)})))


@case("an approval for another roster", "changed since this was prepared")
def _(copy):
    copy.append(decision(copy, "bo", Action.APPROVE, "P-0002", bound(roster=9)))


@case("an approval of what was blocked", "there is nothing to approve")
def _(copy):
    binding = lambda d: replace(d, target="P-0003", request="P-0003")  # noqa: E731
    copy.append(decision(copy, "ada", Action.APPROVE, "P-0002", binding))


@case("the same person twice", "has approved already")
def _(copy):
    copy.append(decision(copy, "ada", Action.APPROVE, "P-0002"))


@case("an approval from where approvals do not count", "not viewed yet")
def _(copy):
    copy.append(decision(copy, "bo", Action.APPROVE, "P-0002", lambda d: replace(d, viewed=())))


@case("a promotion without a quorum", "awaiting_approval, not approved")
def _(copy):
    copy.append(promotion(copy, "P-0002"))


@case("a promotion of what was blocked", "is blocked, not approved")
def _(copy):
    copy.append(promotion(copy, "P-0003"))


@case("a promotion of what was promoted", "is promoted, not approved")
def _(copy):
    copy.append(promotion(copy, "P-0001"))


@case("a note that the quorum is complete", "its quorum is not newly complete")
def _(copy):
    copy.append(Transition("P-0004", State.APPROVED, "quorum complete"))


@case("an expiry before its time", "has not expired yet")
def _(copy):
    copy.append(Transition("P-0004", State.EXPIRED, "x"))


@case("a machine record dated back", "the clock went backwards")
def _(copy):
    copy.append(Transition("P-0004", State.EXPIRED, "x"), time="2020-01-01T00:00:00.000000Z")


@case("a champion adopted over the one there is", "has a champion already")
def _(copy):
    adopt = decision(copy, "ada", Action.ADOPT, MODEL, role=Role.ROOT, digest=OTHER, kind="llm")
    copy.append(adopt)


@case("a model adopted by somebody who is no root", "does not hold the role root|only a root")
def _(copy):
    adopt = decision(copy, "cy", Action.ADOPT, "other", role=Role.OPERATOR, digest=OTHER, kind="llm")
    copy.append(adopt)


@case("a waiver of a rule that cannot be waived", "cannot be waived")
def _(copy):
    waiver = Waiver(
        "weights", copy.site.row("P-0003").proposal.bundle, "p-ada", "2027-01-01T00:00:00.000000Z"
    )
    copy.append(decision(copy, "ada", Action.WAIVE, "P-0003", waiver=waiver))


@case("a lift of a halt that is not there", "nothing is halted")
def _(copy):
    copy.append(decision(copy, "ada", Action.RESUME, "workspace"))


# --- what services claim ------------------------------------------------------------------------------


@case("a proposal of another kind than its model", "is a llm, the proposal says lam")
def _(copy):
    made = replace(copy.site.row("P-0004").proposal, id="P-0005", kind=ModelKind.LAM)
    copy.append(made, signer=copy.site.services["learner"])


@case("a proposal from what is no champion", "has another champion than the one this was trained from")
def _(copy):
    made = replace(copy.site.row("P-0004").proposal, id="P-0005", champion=OTHER)
    copy.append(made, signer=copy.site.services["learner"])


@case("a proposal under a number that is taken", "is not the next one")
def _(copy):
    copy.append(replace(copy.site.row("P-0004").proposal, seed=2), signer=copy.site.services["learner"])


@case("a failure of a model that is not there", "there is no model nothing")
def _(copy):
    copy.append(Failure("P-0005", "nothing", "propose", "x", "x", ""))


@case("a failure of what is over", "nothing of it can fail now")
def _(copy):
    copy.append(Failure("P-0001", MODEL, "measure", "x", "x", ""))


@case("a measurement of what was promoted", "cannot be measured")
def _(copy):
    copy.append(Transition("P-0001", State.MEASURING, "x", copy.site.model().attempts + 1))


@case("a measurement that spends nothing", "attempt")
def _(copy):
    copy.append(Transition("P-0004", State.MEASURING, "x", 99))


@case("evidence that nobody measured", "no measurement is under way")
def _(copy):
    copy.append(copy.site.row("P-0004").evidence, signer=copy.site.services["evaluator"])


@case("an expiry of what is blocked", "cannot expire")
def _(copy):
    copy.append(Transition("P-0003", State.EXPIRED, "x"))


@case("a state that nothing leads to", "nothing moves to promoted by itself")
def _(copy):
    copy.append(Transition("P-0004", State.PROMOTED, "x"))


@pytest.mark.parametrize("one", TABLE, ids=[one.name for one in TABLE])
def test_it_is_refused_for_its_reason(one: Case, copy: Copy):
    one.is_refused_on(copy)
