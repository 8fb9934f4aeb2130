"""Backup and restore: what comes back, what is refused, and that nothing is lost on the way."""

from __future__ import annotations

import io
import itertools
import os
import shutil
import tarfile
import threading
from pathlib import Path

import pytest
from cli_workspace import Cli, Made, copy_of, workspace_with
from fakes import PASSING
from killed import killed_at
from log_samples import tamper
from postgresql_server import PASSWORD, Server

from guardrails import archive, registry
from guardrails import restore as restoring
from guardrails.archive import CONTENTS, extract, write_archive
from guardrails.decision_log.store import Log
from guardrails.errors import InterlockError, LogVerificationError, StaleError, UsageError
from guardrails.records import Commitment
from guardrails.restore import restore
from ui.wiring import Workspace, open_workspace

NOW = "2026-05-01T00:00:00.000000Z"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with one proposal that waits for approval."""
    return workspace_with(tmp_path_factory, PASSING)


@pytest.fixture
def workspace(template: Path, folder: Path) -> Workspace:
    return open_workspace(copy_of(template, folder / "ws"))


@pytest.fixture
def cli(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(workspace.path, capsys)


def save(workspace: Workspace, to: Path, **options: bool) -> Path:
    options = {"artifacts": True, "people_keys": False, **options}
    write_archive(to, workspace.path, workspace.database_url, workspace.store, NOW, **options)
    return to


def files(folder: Path) -> dict[str, bytes]:
    """Everything but the database and locks."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(("log.db", ".lock"))
    }


def records(path: Path) -> list[bytes]:
    with open_workspace(path).log.read() as snapshot:
        return [entry.envelope for entry in snapshot.entries()]


def grow(workspace: Workspace) -> None:
    """One more record."""
    workspace.gate.begin_measurement("P-0001")


# --- there and back ------------------------------------------------------------------------


def test_a_workspace_comes_back_whole_and_can_go_on(cli: Cli, workspace: Workspace, folder: Path):
    saved = cli.ok("backup", folder / "b.tar")
    assert saved["artifacts"] > 0
    assert (folder / "b.tar").stat().st_mode & 0o077 == 0
    assert saved["bytes"] == (folder / "b.tar").stat().st_size
    cli.path = folder / "again"
    back = cli.ok("restore", folder / "b.tar")
    assert (back["entries"], back["root"], back["aside"]) == (saved["entries"], saved["root"], None)
    before, after = files(workspace.path), files(folder / "again")
    people = {name for name in before if name.startswith("keys/people/")}
    assert people
    assert after == {name: data for name, data in before.items() if name not in people}
    assert records(folder / "again") == records(workspace.path)
    assert cli.ok("log", "verify", "--recompute")["ok"]
    assert (folder / "again" / "keys" / "gate.pem").stat().st_mode & 0o077 == 0
    # It goes on: a record by the services, a decision by a person who brings the key along.
    grow(open_workspace(folder / "again"))
    assert cli.ok("log", "verify")["entries"] == saved["entries"] + 1


def test_a_backup_of_somebody_elses_log_is_refused_by_the_pinned_roots(
    cli: Cli, folder: Path, template: Path, monkeypatch: pytest.MonkeyPatch
):
    """It may bring along any list of roots, and any workspace to put in the place of this one."""
    theirs = Made(folder / "theirs")
    theirs.close()
    other = Cli(folder / "theirs", cli.capsys)
    other.ok("backup", folder / "evil.tar")
    mine = cli.ok("roster", "show")["people"][0]["public_keys"][0]
    yours = other.ok("roster", "show")["people"][0]["public_keys"][0]
    (cli.path / "keys" / "roots.pub").write_text(f"{mine}\n")
    refused = cli("restore", folder / "evil.tar", "--replace", "--discard-newer")
    assert (refused.status, "not signed by the root key" in refused.err) == (7, True)
    assert cli.ok("log", "verify")["ok"]
    cli.path = folder / "fresh"
    assert cli("restore", folder / "evil.tar", "--root-key", mine).status == 7
    monkeypatch.setenv("INTERLOCK_ROOT_KEYS", mine)
    assert cli("restore", folder / "evil.tar").status == 7
    assert not cli.path.exists()
    monkeypatch.delenv("INTERLOCK_ROOT_KEYS")
    cli.ok("restore", folder / "evil.tar", "--root-key", yours)


def test_peoples_keys_only_where_asked_for(cli: Cli, workspace: Workspace, folder: Path):
    for name, options, expected in (("a", (), False), ("b", ("--people-keys",), True)):
        cli.ok("backup", folder / name, *options)
        with tarfile.open(folder / name) as made:
            members = made.getnames()
        assert any(member.startswith("workspace/keys/people/") for member in members) is expected
        assert "workspace/keys/gate.pem" in members


def test_the_log_alone(cli: Cli, workspace: Workspace, folder: Path):
    saved = cli.ok("backup", folder / "b.tar", "--no-artifacts")
    assert saved["artifacts"] is None
    cli.path = folder / "again"
    assert "artifacts were not checked" in cli.ok("restore", folder / "b.tar")["notes"]
    assert cli.json("log", "verify").status == 7
    shutil.copytree(workspace.path / "artifacts", folder / "again" / "artifacts", dirs_exist_ok=True)
    assert cli.ok("log", "verify")["ok"]


def test_taken_while_others_write(workspace: Workspace, folder: Path):
    """Each backup is one state: it verifies, artifacts and all, though records and artifacts arrive meanwhile."""
    stop, written, errors = threading.Event(), threading.Semaphore(0), []

    def write() -> None:
        own = open_workspace(workspace.path)
        number = 0
        while not stop.is_set():
            number += 1
            try:
                own.store.put_bytes(b"%d" % number * 1000)
                own.gate.begin_measurement("P-0001")
            except InterlockError as error:
                errors.append(error)
            written.release()

    thread = threading.Thread(target=write)
    thread.start()
    sizes = []
    for turn in range(4):
        assert written.acquire(timeout=60)
        while written.acquire(blocking=False):
            pass  # so that the next wait is for a record that no backup can have yet
        saved = save(workspace, folder / f"{turn}.tar")
        sizes.append(restore(saved, folder / f"again-{turn}", "").contents.extent.entries)
    stop.set()
    thread.join(30)
    assert not errors
    assert sizes == sorted(set(sizes))
    assert len(sizes) == 4


def test_erased_texts_stay_erased(workspace: Workspace, folder: Path):
    tamper(workspace.database_url, "DELETE FROM openings")
    restore(save(workspace, folder / "b.tar"), folder / "again", "")
    with open_workspace(folder / "again").log.read() as snapshot:
        first = snapshot.entry(0).statement.body["people"][0]["name"]["sha256"]
        assert snapshot.opening(Commitment(first)) is None


# --- refused -------------------------------------------------------------------------------


def test_a_backup_replaces_no_file(cli: Cli, folder: Path):
    (folder / "b.tar").write_text("mine")
    ran = cli.json("backup", folder / "b.tar")
    assert ran.status == 2
    assert (folder / "b.tar").read_text() == "mine"
    ran = cli.json("backup", folder / "no" / "b.tar")
    assert ran.status == 2
    assert "cannot be written" in ran.out


def test_a_workspace_is_not_overwritten(cli: Cli, workspace: Workspace, folder: Path):
    save(workspace, folder / "b.tar")
    before = files(workspace.path)
    ran = cli.json("restore", folder / "b.tar")
    assert ran.status == 2
    assert "--replace" in ran.out
    assert files(workspace.path) == before
    aside = cli.ok("restore", folder / "b.tar", "--replace")["aside"]
    assert files(Path(aside)) == before
    assert cli.ok("log", "verify")["ok"]
    (folder / "empty").mkdir()
    cli.path = folder / "empty"
    cli.ok("restore", folder / "b.tar")


def test_a_backup_that_has_less_is_refused_unless_told(cli: Cli, workspace: Workspace, folder: Path):
    save(workspace, folder / "b.tar")
    kept = len(records(workspace.path))
    grow(workspace)
    workspace.gate.log.close()
    ran = cli.json("restore", folder / "b.tar", "--replace")
    assert ran.status == StaleError.exit_status == 6
    assert f"has {kept + 1} records, the backup {kept}" in ran.out
    assert len(records(workspace.path)) == kept + 1
    cli.ok("restore", folder / "b.tar", "--replace", "--discard-newer")
    assert len(records(workspace.path)) == kept


def test_another_history_is_refused_unless_told(template: Path, workspace: Workspace, folder: Path):
    """The same log went on in two copies; neither may silently take the place of the other."""
    other = open_workspace(copy_of(template, folder / "other"))
    grow(other)
    grow(other)
    save(other, folder / "b.tar")
    grow(workspace)
    workspace.gate.log.close()
    with pytest.raises(StaleError, match="another history"):
        restore(folder / "b.tar", workspace.path, "", replace=True)
    restore(folder / "b.tar", workspace.path, "", replace=True, discard_newer=True)
    assert records(workspace.path) == records(other.path)


def test_a_damaged_log_may_be_replaced_when_told(workspace: Workspace, folder: Path):
    save(workspace, folder / "b.tar")
    workspace.log.close()
    (workspace.path / "log.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StaleError, match="cannot be told"):
        restore(folder / "b.tar", workspace.path, "", replace=True)
    restore(folder / "b.tar", workspace.path, "", replace=True, discard_newer=True)
    assert records(workspace.path)


def rewritten(source: Path, to: Path, change) -> Path:
    """The same backup, its members passed through ``change(name, data)``; None leaves one out."""
    with tarfile.open(source) as old, tarfile.open(to, "w") as new:
        for member in old:
            changed = change(member.name, old.extractfile(member).read())
            if changed is not None:
                info = tarfile.TarInfo(changed[0])
                info.size = len(changed[1])
                new.addfile(info, io.BytesIO(changed[1]))
    return to


def flip(data: bytes) -> bytes:
    return data[:-2] + bytes([data[-2] ^ 1]) + data[-1:]


def altered(kind: str):
    def change(name: str, data: bytes):
        return (name, flip(data)) if name.startswith(kind) else (name, data)

    return change


def without(kind: str):
    return lambda name, data: None if name.startswith(kind) else (name, data)


def renamed(kind: str, to: str):
    return lambda name, data: (to, data) if name.startswith(kind) else (name, data)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (altered("log/entries"), "log/entries.jsonl is not what was saved"),
        (altered("log/meta"), "log/meta.jsonl is not what was saved"),
        (altered("workspace/interlock.toml"), "interlock.toml is not what was saved"),
        (altered("artifacts/"), "has other bytes"),
        (altered(CONTENTS), "backup.json|not JSON|not canonical"),
        (without("artifacts/"), "0 artifacts, [0-9]+ were saved"),
        (without("log/entries"), "log/entries.jsonl is not what was saved"),
        (without(CONTENTS), "is cut short"),
        (renamed("workspace/interlock.toml", "workspace/../evil"), "does not belong there"),
        (renamed("workspace/interlock.toml", "/evil"), "does not belong there"),
        (renamed("workspace/interlock.toml", "workspace/artifacts/blobs/aa/evil"), "does not belong there"),
        (renamed("workspace/interlock.toml", "evil"), "does not belong there"),
        (renamed("log/meta", "log/../evil"), "does not belong there"),
    ],
)
def test_a_backup_that_was_altered_leaves_nothing(workspace: Workspace, folder: Path, change, reason: str):
    save(workspace, folder / "b.tar")
    evil = rewritten(folder / "b.tar", folder / "evil.tar", change)
    before = sorted(path for path in folder.rglob("*") if "ws" not in path.parts)
    with pytest.raises(LogVerificationError, match=reason):
        restore(evil, folder / "again", "")
    assert sorted(path for path in folder.rglob("*") if "ws" not in path.parts) == before
    restore(
        rewritten(folder / "b.tar", folder / "same.tar", lambda *x: x), folder / "again", ""
    )  # the control


def test_a_log_that_does_not_hold_is_not_restored(workspace: Workspace, folder: Path):
    """Saved faithfully, but forged before: verification finds it, and nothing is there afterwards."""
    tamper(workspace.database_url, "UPDATE projection SET body = x'7b7d' WHERE \"table\" = 'models'")
    save(workspace, folder / "b.tar")
    with pytest.raises(LogVerificationError, match="models/toy"):
        restore(folder / "b.tar", folder / "again", "")
    assert not (folder / "again").exists()


def test_a_missing_artifact_is_found_before_anything_is_replaced(workspace: Workspace, folder: Path):
    with workspace.log.read() as snapshot:
        champion = snapshot.tables.get("models", "toy")["champion"]
    workspace.store.discard(registry.Digest.parse(champion))
    save(workspace, folder / "b.tar")
    with pytest.raises(LogVerificationError, match="champion"):
        restore(folder / "b.tar", workspace.path, "", replace=True)
    assert records(workspace.path)


def test_a_file_cut_short_anywhere(workspace: Workspace, folder: Path):
    whole = save(workspace, folder / "b.tar").read_bytes()
    cuts = [0, 1, 511, 512, 513, len(whole) // 3, len(whole) // 2, len(whole) - 20_000]
    for cut in [*cuts, *range(0, len(whole) - 11_000, max(1, len(whole) // 40))]:
        (folder / "cut.tar").write_bytes(whole[:cut])
        with pytest.raises(LogVerificationError):
            restore(folder / "cut.tar", folder / "again", "")
        assert not (folder / "again").exists()


def test_what_is_no_backup(folder: Path):
    (folder / "text").write_text("hello")
    with pytest.raises(LogVerificationError):
        restore(folder / "text", folder / "again", "")
    with pytest.raises(UsageError, match="cannot be restored"):
        restore(folder / "missing", folder / "again", "")
    with tarfile.open(folder / "link.tar", "w") as made:
        link = tarfile.TarInfo("workspace/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        made.addfile(link)
    with pytest.raises(LogVerificationError, match="does not belong"):
        extract(folder / "link.tar", folder / "out")


# --- killed in the middle ------------------------------------------------------------------


CHANGES = (
    (Path, "rename"), (Path, "unlink"), (Path, "mkdir"), (Path, "rmdir"), (os, "fsync"), (os, "link"), (os, "open"),
    (shutil, "rmtree"), (archive, "_add"), (restoring, "load"), (tarfile.TarFile, "addfile"),
)  # fmt: skip


def test_a_backup_killed_at_every_step_leaves_none_or_a_whole_one(workspace: Workspace, folder: Path):
    workspace.log.close()
    target = folder / "b.tar"
    for step in itertools.count(1):
        fresh = open_workspace(workspace.path)
        came = killed_at(step, lambda fresh=fresh: save(fresh, target), CHANGES)
        if target.exists():
            extract(target, folder / f"out-{step}")
            target.unlink()
        if not came:
            break
    assert step > 20
    save(workspace, target)
    restore(target, folder / "again", "")


def test_a_restore_killed_at_every_step_can_be_given_again(
    template: Path, workspace: Workspace, folder: Path
):
    save(workspace, folder / "b.tar")
    expected = records(workspace.path)
    for step in itertools.count(1):
        place = folder / "place" / "ws"
        shutil.rmtree(place.parent, ignore_errors=True)
        copy_of(template, place)
        came = killed_at(
            step, lambda place=place: restore(folder / "b.tar", place, "", replace=True), CHANGES
        )
        # Nothing is lost: the workspace is there, or it lies aside.
        there = [path for path in (place, place.with_name("ws.before-restore-1")) if path.exists()]
        assert there
        assert records(there[0]) == expected
        restore(folder / "b.tar", place, "", replace=True)
        assert records(place) == expected
        if not came:
            break
    assert step > 20


# --- PostgreSQL ----------------------------------------------------------------------------


def test_between_sqlite_and_postgresql(
    cli: Cli, workspace: Workspace, folder: Path, postgresql_server: Server, monkeypatch: pytest.MonkeyPatch
):
    """A backup says nothing of the database it came from: a log moves from one to the other and back."""
    saved = cli.ok("backup", folder / "a.tar")
    url = postgresql_server.fresh()
    monkeypatch.setenv("INTERLOCK_DATABASE_URL", url)
    cli.path = folder / "again"
    assert cli.ok("restore", folder / "a.tar")["root"] == saved["root"]
    assert not (folder / "again" / "log.db").exists()
    assert cli.ok("log", "verify", "--recompute")["entries"] == saved["entries"]
    grow(open_workspace(folder / "again"))
    later = cli.ok("backup", folder / "b.tar")
    assert later["entries"] == saved["entries"] + 1
    # The database has more than the first backup, in a new place as in the old.
    for path, options in ((folder / "third", ()), (folder / "again", ("--replace",))):
        cli.path = path
        ran = cli.json("restore", folder / "a.tar", *options)
        assert ran.status == 6, ran.out
        assert PASSWORD not in ran.out + ran.err
    # Interrupted after its commit, the same command finishes.
    cli.path = folder / "third"
    assert cli.ok("restore", folder / "b.tar")["root"] == later["root"]
    monkeypatch.delenv("INTERLOCK_DATABASE_URL")
    cli.path = folder / "fourth"
    assert cli.ok("restore", folder / "b.tar")["root"] == later["root"]
    assert cli.ok("log", "verify")["ok"]


def test_a_restore_that_fails_leaves_the_database_as_it_was(
    workspace: Workspace, folder: Path, postgresql_server: Server
):
    save(workspace, folder / "a.tar")
    url = postgresql_server.fresh()
    restore(folder / "a.tar", folder / "again", url)
    tamper(workspace.database_url, "UPDATE projection SET body = x'7b7d' WHERE \"table\" = 'models'")
    save(workspace, folder / "forged.tar")
    with pytest.raises(LogVerificationError):
        restore(folder / "forged.tar", folder / "again", url, replace=True)
    with Log.open(url) as log, log.read() as snapshot:
        assert snapshot.tables.get("models", "toy")
