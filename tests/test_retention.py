"""Retention: what goes, what stays whatever happens, and that the log can tell."""

from __future__ import annotations

import itertools
import os
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from cli_workspace import OPERATOR, Cli, Made
from fakes import BLOCKED, MODEL, PASSING, Site, age, policy
from killed import killed_at

from guardrails.canonical import digest, encode
from guardrails.errors import DeniedError, LogVerificationError
from guardrails.gate import Gate
from guardrails.records import Action, Removal
from guardrails.registry import SCRATCH, ArtifactError, ArtifactStore
from guardrails.retention import collect, reachable


def swept(site: Site, **options: object):
    age(site)
    return collect(site.gate, site.clock.text, **options)


def rejected(site: Site, content: str = "") -> str:
    proposal = site.judged(PASSING, content)
    site.decide("ada", Action.REJECT, proposal)
    return proposal


def blobs(site: Site) -> set[str]:
    return {address.hex for address, _, _ in site.store.everything()}


def test_only_after_the_days_that_the_policy_asks_for(site):
    proposal = rejected(site)
    before = blobs(site)
    for days in (0, 29.9):
        assert swept(site).proposals == ()
        site.clock.pass_(days=days)
    assert blobs(site) == before
    site.clock.pass_(days=0.2)
    planned = swept(site, dry_run=True)
    assert planned.proposals == (proposal,)
    assert blobs(site) == before
    assert site.kinds()[-1] != "removal"
    done = swept(site)
    assert done == planned
    assert done.files == len(before) - len(blobs(site)) == 3  # the manifest and two files
    assert done.size > 0
    assert site.kinds()[-1] == "removal"
    assert site.row(proposal).removed_at
    found = site.verify()
    assert found.ok, found
    assert any("1 bundles were removed" in note for note in found.notes)
    assert found.recomputed == 1
    assert swept(site).proposals == ()


def test_the_longest_time_of_several_policies_counts(site):
    longer = (
        policy().files["main.yaml"].replace("name: main", "name: longer") + "retention: {rejectedDays: 90}\n"
    )
    site.activate(policy(longer, name="longer"))
    proposal = rejected(site)
    site.clock.pass_(days=60)
    assert swept(site).proposals == ()
    site.clock.pass_(days=31)
    assert swept(site).proposals == (proposal,)


def test_what_the_log_may_still_need_stays(site):
    first = site.promoted("one")
    second = site.promoted("two")
    site.rollback("ada", site.row(first).proposal.bundle)
    blocked = site.judged(BLOCKED, "blocked")
    waiting = site.judged(PASSING, "waiting")
    assert site.state(second) == "rolled_back"
    before = blobs(site)
    site.clock.pass_(days=300)
    done = swept(site)
    assert done.proposals == (blocked,)
    kept = blobs(site)
    for proposal in (first, second, waiting):
        site.store.verify_tree(site.row(proposal).proposal.bundle)
    site.store.verify_tree(site.model().original)
    site.store.get_bytes(site.row(blocked).evidence.measurements)
    assert site.row(blocked).proposal.bundle.hex in before - kept
    assert site.verify().ok


def test_a_bundle_that_was_ever_champion_stays_whatever_its_proposal(site):
    """The same bytes once rejected, once promoted."""
    proposal = rejected(site, "same")
    again = site.promoted("same")
    site.promoted("next")
    site.clock.pass_(days=300)
    assert swept(site).proposals == ()
    site.store.verify_tree(site.row(again).proposal.bundle)
    with pytest.raises(DeniedError, match="is, or was, champion"):
        site.gate.remove(proposal)


def test_bytes_that_two_proposals_share_go_with_the_last(site):
    """The ledger lets go of a proposal; its bytes stay while another proposal has them."""
    first = rejected(site, "shared")
    site.clock.pass_(days=20)
    second = rejected(site, "shared")
    bundle = site.row(first).proposal.bundle
    site.clock.pass_(days=11)
    assert swept(site).proposals == (first,)
    site.store.verify_tree(bundle)
    site.clock.pass_(days=20)
    assert swept(site).proposals == (second,)
    with pytest.raises(ArtifactError):
        site.store.verify_tree(bundle)
    assert site.verify().ok


def test_the_ledger_refuses_a_removal_that_is_not_due(site):
    """Also one that somebody signs who has the gate's key."""
    proposal = rejected(site)
    bundle = site.row(proposal).proposal.bundle
    gate = site.services["gate"]
    with pytest.raises(DeniedError, match="is kept until 2026-04-01"):
        site.inject(site.sealed(Removal(proposal, bundle, 30), gate))
    with pytest.raises(DeniedError, match="is kept until"):
        site.gate.remove(proposal)
    open_ = site.judged()
    site.clock.pass_(days=31)
    cases = {
        "is awaiting_approval": Removal(open_, site.row(open_).proposal.bundle, 30),
        "another bundle": Removal(proposal, digest(b"x"), 30),
        "ask for 30 days, not 5": Removal(proposal, bundle, 5),
    }
    for reason, record in cases.items():
        with pytest.raises(DeniedError, match=reason):
            site.inject(site.sealed(record, gate))
    with pytest.raises(DeniedError, match="not signed by the gate"):
        site.inject(site.sealed(Removal(proposal, bundle, 30), site.services["learner"]))
    site.inject(site.sealed(Removal(proposal, bundle, 30), gate))  # the control
    with pytest.raises(DeniedError, match="removed already"):
        site.gate.remove(proposal)


def test_what_was_removed_is_not_measured_or_judged_again(site):
    proposal = site.judged(BLOCKED)
    site.clock.pass_(days=31)
    swept(site)
    with pytest.raises(DeniedError, match="its bundle was removed on"):
        site.gate.begin_measurement(proposal)
    with pytest.raises(DeniedError, match="its bundle was removed on"):
        site.gate.judge(proposal)
    site.activate(policy(expiresAfter="48h"))
    site.gate.tick()
    assert site.state(proposal) == "blocked"
    assert site.verify().ok


def test_a_missing_bundle_without_a_record_is_still_a_failure(site):
    """The control of what verification forgives."""
    proposal = rejected(site)
    site.store.discard(site.row(proposal).proposal.bundle)
    assert "artifact" in site.verify().reason


def test_leftovers_go_and_young_files_stay(site):
    left = site.store.put_bytes(b"a crash left this")
    incoming = site.store.root / "incoming" / "tmp-left"
    incoming.write_bytes(b"half")
    assert collect(site.gate, site.clock.text) == collect(site.gate, site.clock.text, dry_run=True)
    assert site.store.has(left)
    assert incoming.exists()
    age(site)
    site.store.put_bytes(b"a crash left this")  # stored again: somebody is about to record it
    assert collect(site.gate, site.clock.text).files == 0
    assert site.store.has(left)
    age(site)
    assert collect(site.gate, site.clock.text).files == 1
    assert not site.store.has(left)
    assert not incoming.exists()
    assert site.verify().ok


def test_nothing_is_removed_where_something_needed_is_missing_or_damaged(site):
    """What a champion holds cannot be told from leftovers when its list of files is gone."""
    left = site.store.put_bytes(b"left")
    champion = site.model().champion
    path = site.store.root / "blobs" / champion.hex[:2] / champion.hex
    whole = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(whole[:-1] + b" ")
    with pytest.raises(ArtifactError, match="damaged"):
        swept(site)
    path.unlink()
    with pytest.raises(ArtifactError, match="nothing was removed"):
        swept(site)
    assert site.store.has(left)
    path.write_bytes(whole)
    assert swept(site).files == 1


def test_removing_waits_for_storing_and_the_other_way_round(site):
    order: list[str] = []

    def store() -> None:
        site.store.put_bytes(b"meanwhile")
        order.append("stored")

    with site.store.removing():
        thread = threading.Thread(target=store)
        thread.start()
        time.sleep(0.2)
        order.append("removed")
    thread.join(10)
    assert order == ["removed", "stored"]


def test_proposals_and_removals_at_once(site):
    """Somebody proposes, again and again, the very bytes whose time is over."""
    for _ in range(6):
        rejected(site, "again")
    site.clock.pass_(days=31)
    stop, errors = threading.Event(), []

    def remove() -> None:
        while not stop.is_set():
            try:
                collect(site.gate, site.clock.text, grace_s=30)
            except Exception as error:
                errors.append(error)

    thread = threading.Thread(target=remove)
    thread.start()
    age(site)
    for _ in range(10):
        bundle = site.row(site.propose("again")).proposal.bundle
        site.store.verify_tree(bundle)
    stop.set()
    thread.join(30)
    assert not errors
    assert site.verify().ok
    with site.log.read() as snapshot:
        assert bundle in reachable(snapshot, site.store)


CHANGES = ((ArtifactStore, "discard"), (Gate, "remove"), (Path, "unlink"))


def test_killed_at_every_step_the_next_run_finishes(folder):
    steps = 0
    for step in itertools.count(1):
        site = Site(folder / str(step))
        proposals = (rejected(site), rejected(site))
        champion = site.model().champion
        site.clock.pass_(days=31)
        age(site)
        came = killed_at(step, lambda site=site: collect(site.open(), site.clock.text), CHANGES)
        site.store.verify_tree(champion)
        assert site.verify().ok  # a bundle that is gone has its record: the record comes first
        swept(site)
        assert all(site.row(proposal).removed_at for proposal in proposals)
        with site.log.read() as snapshot:
            assert blobs(site) == {address.hex for address in reachable(snapshot, site.store)}
        assert site.verify().ok
        site.close()
        if not came:
            break
        steps += 1
    assert steps >= 8


def test_the_command_says_what_and_how_much(tmp_path, capsys):
    made = Made(tmp_path / "ws")
    proposal = made.proposed()
    left = made.workspace.store.put_bytes(b"left by a crash")
    made.close()
    cli = Cli(tmp_path / "ws", capsys)
    cli.ok("--as", OPERATOR, "reject", proposal, "--reason", "no")
    assert cli.ok("gc") == {"dry_run": False, "proposals": [], "files": 0, "bytes": 0, "kept_young": 1}
    for path in (tmp_path / "ws" / "artifacts").rglob("*"):
        os.utime(path, (0, 0))
    planned = cli.ok("gc", "--dry-run")
    assert planned == {"dry_run": True, "proposals": [], "files": 1, "bytes": 15, "kept_young": 0}
    assert made.workspace.store.has(left)
    assert cli.ok("gc") == {**planned, "dry_run": False}
    assert not made.workspace.store.has(left)
    assert "0 files" in cli("gc").out
    assert cli.ok("log", "verify")["ok"]


def test_what_a_killed_rehearsal_left_goes_and_one_that_is_running_stays(site):
    old, young = (site.store.root / f"{SCRATCH}{name}" for name in ("old", "young"))
    for folder in (old, young):
        (folder / "restored" / "model").mkdir(parents=True)
        (folder / "restored" / "model" / "model.safetensors").write_bytes(b"copy")
    outside = site.folder / "outside"
    outside.mkdir()
    link = site.store.root / f"{SCRATCH}link"
    link.symlink_to(outside)
    past = time.time() - 48 * 3600
    os.utime(old, (past, past))
    os.utime(link, (past, past), follow_symlinks=False)
    collect(site.gate, site.clock.text)
    assert [folder.exists() for folder in (old, young, outside)] == [False, True, True]
    assert not link.is_symlink()


def test_forged_tables_remove_no_champion(site):
    """Who can write to the database says that the champion never was one, and that its proposal is over."""
    proposal = site.promoted("loved")
    site.rollback("ada", site.model().original)
    bundle = site.row(proposal).proposal.bundle
    with site.log.read() as snapshot:
        row, model = (snapshot.tables.get(*key) for key in (("proposals", proposal), ("models", MODEL)))
    forged = {
        ("proposals", proposal): {**row, "removed_at": site.clock.text},
        ("models", MODEL): {**model, "history": [r for r in model["history"] if r["digest"] != str(bundle)]},
    }
    with sqlite3.connect(site.folder / "log.db") as database:
        for (table, key), body in forged.items():
            changed = database.execute(
                'UPDATE projection SET body = ? WHERE "table" = ? AND key = ?', (encode(body), table, key)
            )
            assert changed.rowcount == 1
    age(site)
    with site.log.read() as snapshot:
        assert bundle not in reachable(snapshot, site.store), "the tables would let it go"
    for dry_run in (True, False):
        with pytest.raises(LogVerificationError, match="projection models/toy differs"):
            collect(site.gate, site.clock.text, dry_run=dry_run)
    assert site.store.has(bundle)
    site.log.rebuild()
    collect(site.gate, site.clock.text)
    assert site.store.has(bundle), "the control"
