"""What leaves the workspace: bundles that anybody can verify, proofs, CSV; and what was in force when."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import oracle
import pytest
from cli_workspace import OPERATOR, REPOSITORY, Cli, Made, copy_of, workspace_with
from fakes import BLOCKED, PASSING, REVIEWABLE, Site
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrails.as_of import as_of, parse_moment
from guardrails.decision_log import bundle
from guardrails.decision_log.store import Log
from guardrails.decision_log.verify import verify_log
from guardrails.errors import InterlockError, LogVerificationError, UsageError
from guardrails.ledger import project
from guardrails.records import Action
from ui.presenters.spreadsheet import csv_cell, csv_text


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return workspace_with(tmp_path_factory, PASSING, REVIEWABLE)


@pytest.fixture
def cli(template, tmp_path, capsys, monkeypatch) -> Cli:
    monkeypatch.setenv("INTERLOCK_AS", OPERATOR)
    return Cli(copy_of(template, tmp_path / "workspace"), capsys)


@pytest.fixture
def exported(cli, tmp_path) -> Path:
    cli.ok("log", "export", tmp_path / "log.bundle")
    return tmp_path / "log.bundle"


# --- bundles ---------------------------------------------------------------------------------


READING = (
    ("log", "show"), ("log", "show", "2"), ("log", "show", "P-0002"), ("log", "show", "P-0001", "--report"),
    ("log", "as-of", "2099-01-01"), ("log", "proof", "3"), ("log", "proof", "--consistency", "2"),
)  # fmt: skip


def test_a_bundle_is_read_without_a_workspace_and_says_what_the_log_says(
    cli, exported, tmp_path, monkeypatch
):
    pins = cli.path / "keys" / "roots.pub"
    given = ("--bundle", exported, "--root-key", pins)
    said = {words: cli.ok(*words) for words in READING}
    keys = [person["public_keys"] for person in cli.ok("roster", "show")["people"]]
    cli.ok("log", "export", "--csv", tmp_path / "of-log.csv")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "path", tmp_path / "nowhere")
    for words, expected in said.items():
        assert cli.ok(*words, *given) == expected, words
    assert [person["public_keys"] for person in cli.ok("roster", "show", *given)["people"]] == keys
    cli.ok("log", "export", "--csv", tmp_path / "of-bundle.csv", *given)
    assert (tmp_path / "of-bundle.csv").read_text() == (tmp_path / "of-log.csv").read_text()
    assert cli("log", "export", tmp_path / "again", *given).status == 2, "the bundle itself is that"


def test_nothing_of_a_bundle_is_shown_that_does_not_hold(cli, exported, tmp_path):
    lines = exported.read_bytes().splitlines(keepends=True)
    forged = tmp_path / "forged.bundle"
    forged.write_bytes(b"".join([*lines[:3], lines[4], *lines[4:]]))
    other = Made(tmp_path / "other" / "workspace")
    others = other.workspace.path / "keys" / "roots.pub"
    other.close()
    for words in READING:
        assert cli(*words, "--bundle", exported).status == 0, "the control"
        for refused in (
            cli(*words, "--bundle", forged),
            cli(*words, "--bundle", exported, "--root-key", others),
        ):
            assert refused.status == 7, words
            assert refused.out == ""
    assert "no root key was given" in cli("log", "show", "--bundle", exported).err
    assert cli("log", "show", "--root-key", others).status == 2, "a workspace has its own"


def test_a_bundle_verifies_like_the_log_that_it_was_made_of(cli, exported):
    root_key = cli.ok("roster", "show")["people"][0]["public_keys"][0]
    told = cli.ok("log", "verify", "--bundle", exported, "--root-key", root_key)
    assert (told["ok"], told["root"]) == (True, cli.ok("log", "verify")["root"])
    assert told["texts"] == cli.ok("log", "verify")["texts"]
    assert "artifacts were not checked" in told["notes"]
    assert stat.S_IMODE(exported.stat().st_mode) == 0o600
    other = cli.ok("roster", "show")["people"][1]["public_keys"][0]
    assert cli("log", "verify", "--bundle", exported, "--root-key", other).status == 7
    assert cli("log", "verify", "--bundle", exported, "--recompute").status == 2
    assert cli("log", "verify", "--bundle", exported.parent / "absent").status == 2
    assert cli("log", "export", exported).status == 2, "nothing is overwritten"
    assert cli("log", "export").status == 2


def test_a_bundle_without_texts_verifies_and_says_so(cli, tmp_path):
    file = tmp_path / "bare"
    cli.ok("log", "export", file, "--no-texts")
    assert OPERATOR.encode() not in file.read_bytes()
    told = cli.ok("log", "verify", "--bundle", file)
    assert told["ok"]
    assert told["texts"]["kept"] == 0
    assert told["texts"]["missing"] > 0


def test_a_bundle_is_checked_with_the_bare_package_and_nothing_else(exported, tmp_path):
    """In a process where whatever the core does not install cannot be imported, and where there is no network."""
    program = tmp_path / "bare.py"
    program.write_text(textwrap.dedent("""
        import importlib.abc, socket, sys

        EXTRAS = {"torch", "transformers", "ray", "streamlit", "peft", "safetensors", "tokenizers", "pandas",
                  "gymnasium", "minigrid", "datasketch", "psycopg", "psutil", "sandbox"}

        class Refuse(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in EXTRAS:
                    raise ModuleNotFoundError(f"no module named {name}", name=name)

        def no_network(*a, **k):
            raise OSError("no network here")

        sys.meta_path.insert(0, Refuse())
        socket.socket.connect = no_network
        from ui.cli.main import run
        sys.exit(run(sys.argv[1:]))
    """))  # fmt: skip

    def run(*words):
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "HOME": str(tmp_path)}
        command = [sys.executable, str(program), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, check=False)

    done = run("--json", "log", "verify", "--bundle", exported)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["data"]["ok"] is True
    spoilt = tmp_path / "spoilt"
    spoilt.write_bytes(exported.read_bytes().replace(b'"seq":3', b'"seq":4', 1))
    assert run("log", "verify", "--bundle", spoilt).returncode == 7


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def rewritten(path: Path, lines: list[dict]) -> None:
    lines = [*lines[:-1], {"end": len(lines) - 1}]
    path.write_text(
        "".join(
            json.dumps(line, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"
            for line in lines
        )
    )


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("cut", "cut off"), ("half a line", "cut off"), ("no end", "its last line is missing"),
        ("record dropped", "it is missing"), ("last record dropped", "should hold"), ("record twice", "it is missing"),
        ("leaf", "not those that its leaf hash was made of"), ("text", "is not what that binds"),
        ("text without salt", "not a opening"), ("checkpoint", "another root|not by service key|not signed"),
        ("no checkpoint", "covered by no checkpoint"), ("unknown line", "not a line of a bundle"),
        ("other format", "begins with its format"), ("spaces", "not canonical"),
        ("more after the end", "does not end where"), ("other origin", "another log|of log"),
        ("no bundle", "not JSON|not canonical|cut off"), ("empty", "begins with its format"),
    ],
)  # fmt: skip
def test_a_spoilt_bundle_is_refused_for_its_reason(cli, exported, what, reason):
    lines = lines_of(exported)
    records = [i for i, line in enumerate(lines) if "seq" in line]
    openings = [i for i, line in enumerate(lines) if "opening" in line]
    notes = [i for i, line in enumerate(lines) if "checkpoint" in line]
    whole = exported.read_bytes()
    if what == "cut":
        exported.write_bytes(whole[: len(whole) // 2])
    elif what == "half a line":
        exported.write_bytes(whole[:-1])
    elif what == "no end":
        exported.write_bytes(whole[: whole.rindex(b'{"end"')])
    elif what == "spaces":
        exported.write_bytes(whole.replace(b'"seq":1}', b'"seq": 1}', 1))
    elif what == "more after the end":
        exported.write_bytes(whole + b'{"end":1}\n')
    elif what == "no bundle":
        exported.write_bytes(os.urandom(1000))
    elif what == "empty":
        exported.write_bytes(b"")
    else:
        if what == "record dropped":
            del lines[records[3]]
        elif what == "last record dropped":
            del lines[records[-1]]
        elif what == "record twice":
            lines.insert(records[3], lines[records[3]])
        elif what == "leaf":
            lines[records[3]]["leaf"] = "ab" * 32
        elif what == "text":
            lines[openings[0]]["opening"]["text"] += "!"
        elif what == "text without salt":
            del lines[openings[0]]["opening"]["salt"]
        elif what == "checkpoint":
            lines[notes[-1]]["checkpoint"] = lines[notes[-1]]["checkpoint"].replace("\n", "\n1", 1)
        elif what == "no checkpoint":
            del lines[notes[-1]]
        elif what == "unknown line":
            lines.insert(1, {"surprise": 1})
        elif what == "other format":
            lines[0]["bundle"] = "interlock/log-bundle/v2"
        else:
            lines[0]["origin"] = "interlock/other"
        rewritten(exported, lines)
    ran = cli.json("log", "verify", "--bundle", exported)
    assert ran.status == 7, ran.out
    assert any(part in ran.data["first_error"]["reason"] for part in reason.split("|")), ran.data[
        "first_error"
    ]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_other_byte_anywhere_passes_unnoticed(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bytes")
    site = _small_site(folder)
    path = folder / "b"
    with site.log.read() as snapshot:
        bundle.write(snapshot, path)
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != whole[at]))
    spoilt = folder / "spoilt"
    spoilt.write_bytes(whole[:at] + bytes([byte]) + whole[at + 1 :])
    try:
        with bundle.opened(spoilt) as log, log.read() as snapshot:
            found = verify_log(snapshot, project, compare_tables=False)
            ok = found.ok and found.texts.missing == 0
    except InterlockError:
        ok = False
    site.close()
    assert not ok


_SITES: dict[str, Site] = {}


def _small_site(folder: Path) -> Site:
    import shutil

    if "made" not in _SITES:
        _SITES["made"] = Site(folder / "template")
        _SITES["made"].close()
    shutil.copytree(_SITES["made"].folder, folder / "site")
    site = _SITES["made"]
    site.url = f"sqlite:///{folder / 'site' / 'log.db'}"
    site.gate = site.open()
    return site


def test_a_bundle_that_cannot_be_finished_leaves_nothing(tmp_path, monkeypatch):
    site = Site(tmp_path / "site")
    with site.log.read() as snapshot:
        monkeypatch.setattr(
            os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        )
        with pytest.raises(UsageError, match="No space left"):
            bundle.write(snapshot, tmp_path / "b")
        monkeypatch.undo()
        assert not (tmp_path / "b").exists()
        assert bundle.write(snapshot, tmp_path / "b") > 0, "the control"
    site.close()


# --- proofs on the command line -------------------------------------------------------------------


def test_a_proof_is_checked_offline_by_us_and_by_the_oracle(cli, tmp_path):
    data = cli.ok(
        "log", "proof", "P-0001", "--to", tmp_path / "p.tlog-proof", "--record-to", tmp_path / "p.json"
    )
    envelope = (tmp_path / "p.json").read_bytes()
    text = (tmp_path / "p.tlog-proof").read_text()
    index, hashes, note = oracle.tlog_proof(text)
    _, size, root = oracle.log_signed(note, data["log_key"])
    assert oracle.included(oracle.sha(b"\x00", envelope), index, size, hashes, root)
    words = ("log", "verify", "--proof", tmp_path / "p.tlog-proof", "--record", tmp_path / "p.json")
    told = cli.ok(*words, "--log-key", data["log_key"])
    assert (told["seq"], told["entries"]) == (index, size)
    assert cli(*words).status == 2, "without the log's key nothing is shown"
    (tmp_path / "p.json").write_bytes(envelope + b" ")
    assert cli(*words, "--log-key", data["log_key"]).status == 7
    assert cli("log", "proof", "P-9999").status == 2
    assert cli("log", "proof", "2", "--size", "1").status == 2
    sizes = [item["size"] for item in cli.ok("log", "checkpoint", "--all")["sizes"]]
    assert cli.ok("log", "proof", "0", "--size", sizes[2])["entries"] == sizes[2]


def test_growth_is_proved_on_the_command_line(cli, tmp_path):
    kept = tmp_path / "kept"
    before = cli.ok("log", "checkpoint", "--to", kept)
    cli.ok("halt", "--reason", "one more record")
    data = cli.ok("log", "proof", "--consistency", before["entries"], "--to", tmp_path / "growth")
    words = ("log", "verify", "--proof", tmp_path / "growth", "--log-key", data["log_key"])
    assert cli.ok(*words, "--checkpoint", kept)["from"] == before["entries"]
    assert cli(*words).status == 2
    other = tmp_path / "other"
    other.write_text(before["checkpoint"].replace(f"\n{before['entries']}\n", f"\n{before['entries'] - 1}\n"))
    assert cli(*words, "--checkpoint", other).status == 7
    assert cli("log", "proof", "--consistency", "9999").status == 2


def test_a_proof_reads_few_nodes_of_a_long_log(tmp_path):
    from log_samples import KEY, ORIGIN, add, record
    from log_samples import project as tiny

    Log.create(f"sqlite:///{tmp_path / 'log.db'}", ORIGIN, KEY, tiny).close()
    with Log.open(f"sqlite:///{tmp_path / 'log.db'}", KEY, tiny) as log:
        add(log, *(record() for _ in range(1500)))
        for seq in (0, 700, 1499):
            with log.read() as snapshot:
                snapshot.inclusion_proof(seq)
                assert len(snapshot._nodes) <= 2 * 11
        with log.read() as snapshot:
            snapshot.consistency_proof(777)
            assert len(snapshot._nodes) <= 2 * 11


# --- CSV ------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.text(), min_size=7, max_size=7), max_size=5))
def test_no_cell_starts_a_formula_and_every_text_comes_back(rows):
    columns = ("seq", "time", "record", "about", "by", "summary", "leaf")
    text = csv_text([dict(zip(columns, row, strict=True)) for row in rows])
    read = list(csv.reader(io.StringIO(text, newline="")))
    assert read[0] == list(columns)
    for made, row in zip(read[1:], rows, strict=True):
        for cell, original in zip(made, row, strict=True):
            assert not cell.lstrip().startswith(("=", "+", "-", "@", "\t", "\r"))
            assert cell.removeprefix("'") == original.replace("\0", "") or cell == original.replace("\0", "")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\uff1d1", "'=1"])
def test_what_a_spreadsheet_would_run_is_text(text):
    assert csv_cell(text) == "'" + text
    assert csv_cell("plain = text") == "plain = text"


def test_the_log_as_csv(cli, tmp_path):
    cli.ok("halt", "--reason", "=HYPERLINK(1)")
    cli.ok("log", "export", "--csv", tmp_path / "log.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "log.csv").read_text(), newline="")))
    assert [int(row["seq"]) for row in rows] == list(range(cli.ok("log", "verify")["entries"]))
    assert "HYPERLINK" in rows[-1]["summary"]


# --- as of --------------------------------------------------------------------------------------


def test_what_was_in_force_at_each_moment(tmp_path):
    site = Site(tmp_path / "site")
    moments = [(site.clock.time, site.model().champion, False)]
    site.clock.pass_(minutes=5)
    site.promoted("first")
    moments.append((site.clock.time, site.model().champion, False))
    site.clock.pass_(minutes=5)
    site.decide("di", Action.HALT, "workspace")
    moments.append((site.clock.time, site.model().champion, True))
    site.clock.pass_(minutes=5)
    site.decide("ada", Action.RESUME, "workspace")
    site.clock.pass_(minutes=5)
    with site.log.read() as snapshot:
        for moment, champion, halted in moments:
            state = as_of(snapshot, project, moment)
            assert [model.champion for model in state.models] == [champion]
            assert bool(state.halted_by) is halted
            assert state.last is not None
            assert state.last.seq == state.size - 1
            assert oracle.note_parts(state.checkpoint)[0].splitlines()[1] >= str(state.size)
        now = as_of(snapshot, project, site.clock.time)
        for name in snapshot.tables.names():
            assert dict(now.tables.scan(name)) == dict(snapshot.tables.scan(name)), name
        assert as_of(snapshot, project, parse_moment("2020-01-01")).last is None
    site.close()


def test_as_of_on_the_command_line(cli):
    whole = cli.ok("log", "as-of", "2999-01-01")
    assert whole["entries"] == cli.ok("log", "verify")["entries"]
    assert whole["models"][0]["champion_digest"] == cli.ok("model", "show", "toy")["champion_digest"]
    assert whole["roster"]["people"][0]["name"] == OPERATOR
    assert cli.ok("log", "as-of", "2020-01-01T00:00:00Z")["last"] is None
    assert cli("log", "as-of", "2999-01-01").status == 0
    assert cli("log", "as-of", "yesterday").status == 2


@pytest.mark.parametrize("text", ["2026-13-01", "", "12:00", "now", "2026-01-01T25:00"])
def test_times_that_are_none(text):
    with pytest.raises(UsageError, match="not a time"):
        parse_moment(text)


def test_a_bundle_of_a_blocked_history_holds_too(tmp_path):
    site = Site(tmp_path / "site")
    site.judged(BLOCKED)
    with site.log.read() as snapshot:
        bundle.write(snapshot, tmp_path / "b")
        root = snapshot.root
    with bundle.opened(tmp_path / "b") as log, log.read() as snapshot:
        assert verify_log(snapshot, project, compare_tables=False).root == root
        with pytest.raises(LogVerificationError), bundle.opened(tmp_path / "site" / "log.db"):
            pass
    site.close()
