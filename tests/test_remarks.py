"""guardrails.ledger.remarks: what is said of a proposal has an end, before anybody is asked for a passphrase."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import PASSING, Site

from guardrails.decisions import MAX_REASON_CHARS, Draft
from guardrails.errors import DeniedError, RecordError, UsageError
from guardrails.ledger import remarks
from guardrails.records import Action, open_text


@pytest.fixture
def narrow(monkeypatch, site):
    monkeypatch.setattr(remarks, "MAX_REMARKS", 6)
    monkeypatch.setattr(remarks, "MAX_REMARKS_EACH", 3)
    return site


def say(site: Site, who: str, target: str, text: str = "a word"):
    return site.decide(who, Action.COMMENT, target, reason=text)


def test_the_limits_leave_room_for_everybody():
    assert 1 < remarks.MAX_REMARKS_EACH * 4 < remarks.MAX_REMARKS


def test_one_person_comes_to_an_end_before_the_others_do(narrow):
    proposal = narrow.judged(PASSING)
    for _ in range(3):
        say(narrow, "bo", proposal)
    before = narrow.kinds()
    with pytest.raises(DeniedError, match="you have said 3 things of it, 3 are kept"):
        narrow.draft("bo", Action.COMMENT, proposal)  # no key has been asked for yet
    with pytest.raises(DeniedError, match="you have said 3 things"):
        narrow.draft("bo", Action.REQUEST_CHANGES, proposal)
    assert narrow.kinds() == before
    for who in ("cy", "di", "ada"):
        say(narrow, who, proposal)
    with pytest.raises(DeniedError, match="6 remarks have been made on it, 6 are kept"):
        say(narrow, "ada", proposal)
    assert narrow.approve("ada", proposal).state == "promoted", "deciding is never limited"
    assert narrow.verify().ok


def test_requests_for_change_are_counted_too(narrow):
    proposal = narrow.judged(PASSING)
    for _ in range(3):
        narrow.decide("bo", Action.REQUEST_CHANGES, proposal)
        narrow.decide("bo", Action.WITHDRAW, proposal)
    with pytest.raises(DeniedError, match="you have said 3 things"):
        narrow.decide("bo", Action.REQUEST_CHANGES, proposal)
    assert narrow.decide("bo", Action.REJECT, proposal).state == "rejected"


def test_a_request_has_its_own_room(narrow):
    narrow.promoted()
    request = narrow.decide("di", Action.HALT, "workspace").request
    for _ in range(3):
        say(narrow, "bo", request)
    with pytest.raises(DeniedError, match=f"{request}: you have said 3"):
        say(narrow, "bo", request)
    assert narrow.decide("ada", Action.RESUME, "workspace").state == "done"


def test_drafts_that_were_prepared_before_are_counted_when_they_come(narrow):
    """Whoever holds a key can prepare as many as they like, also offline."""
    proposal = narrow.judged(PASSING)
    drafts = [narrow.draft("bo", Action.COMMENT, proposal, reason=f"word {n}") for n in range(5)]
    for draft in drafts[:3]:
        narrow.gate.commit(draft, narrow.people["bo"].key)
    before = narrow.kinds()
    with pytest.raises(DeniedError, match="you have said 3"):
        narrow.gate.commit(drafts[3], narrow.people["bo"].key)
    assert narrow.kinds() == before


def test_a_log_with_more_remarks_than_are_taken_now_still_holds(monkeypatch, site):
    proposal = site.judged(PASSING)
    for _ in range(4):
        say(site, "bo", proposal)
    monkeypatch.setattr(remarks, "MAX_REMARKS_EACH", 3)
    assert site.verify().ok
    with pytest.raises(DeniedError):
        say(site, "bo", proposal)


def test_a_long_text_is_refused_wherever_it_comes_from(site):
    proposal = site.judged(PASSING)
    with pytest.raises(UsageError, match=f"1 to {MAX_REASON_CHARS}"):
        site.draft("bo", Action.COMMENT, proposal, reason="x" * (MAX_REASON_CHARS + 1))
    honest = site.draft("bo", Action.COMMENT, proposal, reason="x" * MAX_REASON_CHARS)
    long = replace(honest, openings=(open_text("y" * (MAX_REASON_CHARS + 1)),))
    assert isinstance(long, Draft)
    with pytest.raises(RecordError, match=f"{MAX_REASON_CHARS + 1} characters, {MAX_REASON_CHARS} are kept"):
        site.gate.commit(long, site.people["bo"].key)
    assert site.gate.commit(honest, site.people["bo"].key).state == "kept", "the control"
