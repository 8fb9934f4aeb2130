"""A log and its witnesses together: what no log can show by itself is refused once a witness has seen it.

The attacker here holds the log's key and every service's key, makes tree, checkpoints and tables anew, and the
copy verifies by itself: that is the control of each case.
"""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import oracle
import pytest
from attacked_log import Copy, refused
from cli_workspace import CONFIG, OPERATOR, REPOSITORY, Cli, copy_of, workspace_with
from fakes import PASSING, REVIEWABLE, Site, policy

from guardrails.decision_log.checkpoint import parse
from guardrails.decision_log.cosignature import LOG, VerifierKey
from guardrails.decision_log.proof import ConsistencyProof
from guardrails.decision_log.store import Log
from guardrails.decision_log.witness import Witness
from guardrails.errors import DeniedError, UsageError
from guardrails.ledger.deadlines import expiry_of
from guardrails.records import Action


class Watched:
    """A site with a witness beside it."""

    def __init__(self, site: Site, folder: Path, name: str = "witness.example/w1") -> None:
        self.site = site
        self.witness = Witness.create(folder, name)
        self.witness.trust(VerifierKey.of(site.log.origin, site.services["log"], LOG))
        self.now = int(datetime(2026, 3, 2, 9, 0, tzinfo=UTC).timestamp())
        self.witness._clock = lambda: self.now

    @property
    def key(self) -> VerifierKey:
        return self.witness.verifier_key

    def look(self) -> str:
        """Have the newest checkpoint cosigned, and kept beside the log; the note that the witness now holds."""
        note = self.witness.latest(self.site.log.origin)
        old = parse(note)[0].size if note else 0
        with self.site.log.read() as snapshot:
            asked = ConsistencyProof(old, tuple(snapshot.consistency_proof(old)), snapshot.checkpoint())
            size = snapshot.size
        answer = self.witness.add_checkpoint(asked.encode().encode())
        assert answer.ok, answer
        self.site.log.keep_cosignature(size, self.key.name, answer.body)
        return self.witness.latest(self.site.log.origin)

    def asked_of(self, copy: Copy) -> int:
        """The status that the witness answers a copy with."""
        note = self.witness.latest(self.site.log.origin)
        old = parse(note)[0].size
        with Log.open(copy.url) as log, log.read() as snapshot:
            path = tuple(snapshot.consistency_proof(old)) if old <= snapshot.size else ()
            asked = ConsistencyProof(old, path, snapshot.checkpoint())
        return self.witness.add_checkpoint(asked.encode().encode()).status


@pytest.fixture
def watched(folder: Path):
    site = Site(folder / "site")
    made = Watched(site, folder / "witness")
    site.promoted("first")
    made.look()
    review = site.judged(REVIEWABLE, "second")
    site.approve("ada", review)
    yield made
    site.close()


def test_a_log_that_its_witness_has_seen_holds(watched: Watched):
    watched.look()
    found = watched.site.verify(witness_keys=[watched.key])
    assert found.ok, found.reason
    assert found.coverage.size == found.entries
    assert found.coverage.first_time(0) == found.coverage.first_time(found.entries - 1)
    with watched.site.log.read() as snapshot:
        assert oracle.witnessed(snapshot.cosigned(), str(watched.key)) == watched.now
    assert watched.site.verify().coverage is None


def test_records_that_no_witness_saw_are_refused(watched: Watched):
    found = watched.site.verify(witness_keys=[watched.key])
    refused(found, "are not covered by a checkpoint that 1 of the given witnesses cosigned")
    assert watched.site.verify().ok, "the control"


def test_one_a_tail_cut_off_is_refused(watched: Watched, folder: Path):
    note = watched.look()
    copy = Copy(watched.site, folder / "copy")
    with watched.site.log.read() as snapshot:
        sizes = [size for size, _, _ in snapshot.cosignatures()]
    copy.rewrite(copy.envelopes()[: sizes[0]])
    kept_lines(copy, watched, sizes[0])
    assert copy.verify(witness_keys=[watched.key]).ok, (
        "the control: an old state that the witness had cosigned"
    )
    refused(copy.verify(witness_keys=[watched.key], known_checkpoints=[note]), "a checkpoint covers")
    assert watched.asked_of(copy) in (400, 409)


def kept_lines(copy: Copy, watched: Watched, size: int) -> None:
    """The attacker keeps the witness's cosignature of an earlier state, with the very checkpoint it is about."""
    with watched.site.log.read() as snapshot:
        note = snapshot.checkpoint(size)
        line = next(line for at, _, line in snapshot.cosignatures() if at == size)
    copy.sql("delete from checkpoints where size = ?", size)
    copy.sql("insert into checkpoints values (?, ?)", size, note)
    with Log.open(copy.url, watched.site.services["log"], lambda t, e: None, prove=False) as log:
        log.keep_cosignature(size, watched.key.name, line)


def test_two_a_veto_that_nothing_refers_to_is_missed(folder: Path):
    site = Site(folder / "site")
    watched = Watched(site, folder / "witness")
    proposal = site.judged(REVIEWABLE)
    site.approve("ada", proposal)
    site.decide("cy", Action.REJECT, proposal)
    note = watched.look()
    copy = Copy(site, folder / "copy")
    assert copy.verify(witness_keys=[watched.key]).ok
    copy.rewrite(copy.envelopes()[:-1])
    found = copy.verify(recompute=None)
    assert found.ok, found.reason
    refused(copy.verify(witness_keys=[watched.key]), "are not covered by a checkpoint")
    refused(copy.verify(known_checkpoints=[note]), "a checkpoint covers")
    assert watched.asked_of(copy) in (400, 409)
    site.close()


def test_three_another_history_is_refused_although_only_one_is_seen(watched: Watched, folder: Path):
    note = watched.look()
    copy = Copy(watched.site, folder / "copy")
    # The same length, another end: the approval that was signed last is replaced by somebody else's.
    copy.rewrite(copy.envelopes()[:-1])
    other = Site.__new__(Site)
    other.__dict__ |= watched.site.__dict__
    other.url = copy.url
    other.gate = other.open()
    other.approve("bo", "P-0002")
    other.close()
    assert copy.verify().ok, "the control: it holds by itself"
    refused(copy.verify(witness_keys=[watched.key]), "are not covered by a checkpoint")
    refused(copy.verify(known_checkpoints=[note]), "has another root than these records")
    assert watched.asked_of(copy) in (409, 422)


def test_four_whoever_drives_the_learner_is_no_second_person(folder: Path):
    """That Ada made the proposal which the learner service signed as the loop's, no log and no witness shows.

    What it buys her is bounded: nobody can stand in for the other people that the policy asks for.
    """
    site = Site(
        folder / "site",
        source=policy(onEligible="{quorum: 2, roles: [operator, safety], distinctRoles: true}"),
    )
    driven = site.judged(proposer="loop")
    assert site.approve("ada", driven).state == "awaiting_approval", "alone she moves nothing"
    own = site.judged(proposer="p-ada")
    with pytest.raises(DeniedError, match="excluded"):
        site.approve("ada", own)
    assert site.approve("bo", driven).state == "promoted", "the control: with a second person it does"
    assert site.verify().ok
    site.close()


# --- thresholds and times -------------------------------------------------------------------------


def test_a_threshold_of_several_witnesses(watched: Watched, folder: Path):
    watched.look()
    second = Watched(watched.site, folder / "second", "witness.example/w2")
    keys = [watched.key, second.key]
    refused(watched.site.verify(witness_keys=keys), "that 2 of the given witnesses cosigned")
    assert watched.site.verify(witness_keys=keys, witness_threshold=1).ok
    second.look()
    assert watched.site.verify(witness_keys=keys).ok
    with pytest.raises(UsageError, match="cannot be asked for"):
        watched.site.verify(witness_keys=keys, witness_threshold=3)
    with pytest.raises(UsageError, match="key of a log"):
        watched.site.verify(witness_keys=[VerifierKey.of("x", watched.site.services["log"], LOG)])


def test_a_forged_cosignature_beside_the_log(watched: Watched, folder: Path):
    watched.look()
    copy = Copy(watched.site, folder / "copy")
    assert copy.verify(witness_keys=[watched.key]).ok
    with watched.site.log.read() as snapshot:
        first, last = (line for _, _, line in snapshot.cosignatures())
    copy.sql("update cosignatures set line = ? where line = ?", first, last)
    refused(copy.verify(witness_keys=[watched.key]), "the cosignature is not by witness")
    assert copy.verify().ok, "who trusts no witness reads no cosignature"


def test_a_promotion_that_was_witnessed_after_the_approval_ended_is_said(folder: Path):
    site = Site(folder / "site")
    watched = Watched(site, folder / "witness")
    watched.now = int(site.clock.time.timestamp())
    site.promoted("in time")
    watched.look()
    assert "first saw it" not in " ".join(site.verify(witness_keys=[watched.key], expiry=expiry_of).notes)
    site.promoted("late")
    watched.now += 73 * 3600
    watched.look()
    found = site.verify(witness_keys=[watched.key], expiry=expiry_of)
    assert found.ok
    assert any("the witnesses first saw it at 2026-03-05" in note for note in found.notes), found.notes
    site.close()


# --- the program ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return workspace_with(tmp_path_factory, PASSING)


@pytest.fixture
def cli(template, tmp_path, capsys, monkeypatch) -> Cli:
    monkeypatch.setenv("INTERLOCK_AS", OPERATOR)
    return Cli(copy_of(template, tmp_path / "workspace"), capsys)


@pytest.fixture
def process(cli: Cli, tmp_path: Path):
    """A witness as its own process, and its address."""
    folder = tmp_path / "witness"
    log_key = cli.ok("log", "checkpoint")["log_key"]
    made = cli.ok("log", "witness", "--dir", folder, "--name", "witness.example/w1", "--add-log", log_key)
    words = [
        sys.executable,
        "-m",
        "ui.cli",
        "log",
        "witness",
        "--dir",
        str(folder),
        "--listen",
        "127.0.0.1:0",
    ]
    running = subprocess.Popen(words, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    assert running.stderr is not None
    url = re.search(r"http://127\.0\.0\.1:\d+", running.stderr.readline())[0]
    yield url, made["verifier_key"]
    running.terminate()
    running.wait(20)


def configure(cli: Cli, url: str, key: str) -> None:
    file = cli.path / "interlock.toml"
    file.write_text(f'{CONFIG}\n[[log.witnesses]]\nurl = "{url}"\nkey = "{key}"\n', encoding="utf-8")


def test_a_workspace_asks_the_witness_that_it_was_told_of(cli: Cli, process):
    url, key = process
    assert cli("log", "checkpoint", "--witness").status == 2, "none is configured"
    assert cli("log", "verify", "--witness-key", key).status == 7
    configure(cli, url, key)
    note = cli.ok("log", "checkpoint", "--witness")["checkpoint"]
    assert oracle.witnessed(note, key) > 0
    told = cli.ok("log", "verify", "--witness-key", key)
    assert [one["witness"] for one in told["witnesses"]] == ["witness.example/w1"]
    assert not any("no witness key" in text for text in told["notes"])
    assert any("no witness key" in text for text in cli.ok("log", "verify")["notes"])
    cli.ok("halt", "--reason", "one more record")
    assert cli("log", "verify", "--witness-key", key).status == 7
    assert any("cosigned" in effect for effect in cli.ok("tick")["done"])
    assert cli.ok("tick")["done"] == [], "it has seen everything already"
    assert cli.ok("log", "verify", "--witness-key", key)["ok"]
    assert cli("log", "verify", "--witness-key", key, "--witness-threshold", "2").status == 2


def test_a_cut_log_is_an_alarm_on_the_command_line(cli: Cli, process, template, tmp_path, capsys):
    url, key = process
    configure(cli, url, key)
    cli.ok("halt", "--reason", "one more record")
    cli.ok("log", "checkpoint", "--witness")
    cut = Cli(copy_of(template, tmp_path / "cut"), capsys)
    configure(cut, url, key)
    ran = cut.json("log", "checkpoint", "--witness")
    assert ran.status == 7
    assert "another history" in ran.out
    assert any("ALARM" in effect for effect in cut.ok("tick")["done"])


def test_a_bundle_and_a_proof_carry_the_cosignatures(cli: Cli, process, tmp_path):
    url, key = process
    configure(cli, url, key)
    log_key = cli.ok("log", "checkpoint", "--witness")["log_key"]
    cli.ok("log", "export", tmp_path / "bundle")
    assert cli.ok("log", "verify", "--bundle", tmp_path / "bundle", "--witness-key", key)["ok"]
    cli.ok("log", "proof", "P-0001", "--to", tmp_path / "proof", "--record-to", tmp_path / "record")
    words = (
        "log",
        "verify",
        "--proof",
        tmp_path / "proof",
        "--record",
        tmp_path / "record",
        "--log-key",
        log_key,
    )
    assert cli.ok(*words, "--witness-key", key)["witnesses"]
    stranger = Witness.create(tmp_path / "other", "witness.example/w2").verifier_key
    assert cli(*words, "--witness-key", stranger).status == 7
    assert cli("log", "verify", "--bundle", tmp_path / "bundle", "--witness-key", stranger).status == 7


def test_a_witness_without_a_network(cli: Cli, tmp_path: Path):
    """Files are carried there and back."""
    folder = tmp_path / "witness"
    log_key = cli.ok("log", "checkpoint", "--to", tmp_path / "first")["log_key"]
    key = cli.ok("log", "witness", "--dir", folder, "--name", "offline", "--add-log", log_key)["verifier_key"]
    words = ("log", "witness", "--dir", folder, "--once", "--checkpoint")
    line = cli.ok(*words, tmp_path / "first")["cosignature"]
    (tmp_path / "answer").write_text(line, encoding="utf-8")
    cli.ok("log", "checkpoint", "--add", tmp_path / "answer", "--witness-key", key)
    assert cli.ok("log", "verify", "--witness-key", key)["ok"]
    size = cli.ok("log", "verify")["entries"]
    cli.ok("halt", "--reason", "one more record")
    assert cli(*words, tmp_path / "first").status == 6, "it has cosigned that one; only growth is next"
    cli.ok("log", "proof", "--consistency", size, "--to", tmp_path / "second")
    (tmp_path / "answer2").write_text(cli.ok(*words, tmp_path / "second")["cosignature"], encoding="utf-8")
    cli.ok("log", "checkpoint", "--add", tmp_path / "answer2", "--witness-key", key)
    assert cli.ok("log", "verify", "--witness-key", key)["ok"]
    latest = cli.ok("log", "witness", "--dir", folder, "--latest", log_key.split("+")[0])["checkpoint"]
    (tmp_path / "latest").write_text(latest, encoding="utf-8")
    assert cli.ok("log", "verify", "--witness-key", key, "--checkpoint", tmp_path / "latest")["ok"]
    assert cli("log", "checkpoint", "--add", tmp_path / "answer2").status == 2
    assert cli("log", "witness", "--dir", folder, "--once").status == 2
    assert cli("log", "witness", "--dir", tmp_path / "absent").status == 2


@pytest.mark.parametrize(
    "text",
    [
        "url = 1",
        'url = "http://x"',
        'url = "ftp://x"\nkey = "a+b+c"',
        'url = "http://x"\nkey = "abc"',
        'other = "x"',
    ],
)
def test_a_witness_that_is_not_well_configured(cli: Cli, text: str):
    (cli.path / "interlock.toml").write_text(f"{CONFIG}\n[[log.witnesses]]\n{text}\n", encoding="utf-8")
    ran = cli("config", "show")
    assert ran.status == 3
    assert "interlock.toml:" in ran.err
