"""The whole line on the command line, nothing planted: real jobs at the real isolation level, real keys.

propose → measure → judge → approve → promote → pull → roll back → verify, with the 1M-parameter model.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from cli_workspace import PASSPHRASE, REPOSITORY, TINY, command

LENIENT = """\
apiVersion: interlock/v1
kind: Policy
metadata: {name: default, version: 2}
defaults: {confidence: 0.95, minSamples: 20, onInconclusive: review, onError: block}
rules:
  - id: integrity
    check: integrity.weights
    require: {metric: violations, op: "==", value: 0}
    severity: block
  - id: drift
    check: drift.output_kl
    params: {suite: control-kjv}
    require: {metric: kl_mean, bound: upper, op: "<", value: 1.0}
    severity: review
approval:
  onEligible: {quorum: 1, roles: [operator]}
  onReview: {quorum: 2, roles: [operator, safety], distinctRoles: true}
  onBlocked: never
"""


class Story:
    """One workspace, and what each command in it came to."""

    def __init__(self, folder):
        self.folder = folder
        self.path = folder / "workspace"
        self.passphrase = folder / "passphrase"
        self.passphrase.write_text(PASSPHRASE, encoding="utf-8")

    def __call__(self, *words, timeout=240):
        return command(
            "--workspace", self.path, "--passphrase-file", self.passphrase, "--json", *words, timeout=timeout,
            INTERLOCK_RUNNER="local", OMP_NUM_THREADS="1",
        )  # fmt: skip

    def ok(self, *words):
        ran = self(*words)
        assert ran.status == 0, (words, ran.out, ran.err)
        return ran.data


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Set up, one proposal by the learner, and three bundles from elsewhere."""
    story = Story(tmp_path_factory.mktemp("line"))
    story.ok("init")
    (story.path / "interlock.toml").write_text(TINY, encoding="utf-8")
    story.founded = story.ok("init", "--operator", "Ada")
    story.proposed = story("propose", "tiny", "--seed", "5")
    return story


def test_init_founds_the_workspace(story):
    assert [person["roles"] for person in story.founded["operators"]] == [["operator", "root"]]
    assert story.founded["root_keys"][0].startswith("ssh-ed25519 ")
    assert [model["name"] for model in story.founded["models"]] == ["tiny"]
    assert [policy["name"] for policy in story.founded["policies"]] == ["default"]
    assert story("init", "--operator", "Bo").status == 6
    assert story.ok("init")["models"] == story.founded["models"]
    for key in (story.path / "keys").rglob("*"):
        assert key.stat().st_mode & 0o077 == 0, key


def test_propose_trains_measures_and_judges(story):
    assert story.proposed.status == 0
    row = story.proposed.data["proposals"][0]
    assert (row["id"], row["technique"]) == ("P-0001", "self_supervised")
    # 24 items a suite cannot show that harm has not risen, which the shipped policy wants shown: blocked.
    assert row["verdict"] == "blocked"
    assert "measure" in story.proposed.err
    shown = story.ok("show", "P-0001")
    assert (shown["isolation"], shown["evidence"]["isolation"], shown["seed"]) == ("strict", "strict", 5)
    assert shown["compute"]["cpu_s"] > 0
    assert shown["diff"]["tensors_changed"] > 0
    assert shown["diff"]["relative_change"] > 0
    assert shown["recipe"]["steps"] == "2"
    findings = {finding["rule"]: finding for finding in story.ok("explain", "P-0001")["findings"]}
    outcomes = {finding["outcome"] for finding in findings.values()}
    assert {"pass", "inconclusive"} <= outcomes
    assert "error" not in outcomes
    harm = findings["harm.compliance"]
    assert (harm["outcome"], harm["severity"], harm["n"]) == ("inconclusive", "block", 52)
    assert harm["upper"] > harm["limit"]


def test_the_line_to_its_end(story, tmp_path):
    policy = tmp_path / "default.yaml"
    policy.write_text(LENIENT, encoding="utf-8")
    # One person in the roster: activations are theirs alone, and the record says so.
    assert story.ok("policy", "activate", policy, "--reason", "as many samples as we have")["state"] == "done"
    assert story.ok("tick")["done"] == ["P-0001: judged again, awaiting_approval"]
    assert story("verdict", "P-0001").data["verdict"] == "eligible"
    base = story.ok("model", "show", "tiny")["champion_digest"]
    receipt = story.ok("approve", "P-0001", "--reason", "it reads a little better")
    assert (receipt["state"], receipt["sole_person"]) == ("promoted", True)
    story.ok("pull", "tiny", "--to", tmp_path / "champion")
    _require_loads(tmp_path / "champion")

    # What was trained elsewhere takes the same way. Not a number: blocked, and nobody can approve it.
    broken = _bundle(tmp_path / "broken", tmp_path / "champion", spoil=True)
    ran = story("submit", "tiny", broken, "--wait")
    assert (ran.status, ran.data["verdict"]) == (4, "blocked")
    assert any(f["check"] == "integrity.weights" and f["outcome"] == "fail" for f in ran.data["findings"])
    assert story("approve", ran.data["id"], "--reason", "please").status == 6

    sound = _bundle(tmp_path / "sound", tmp_path / "champion", spoil=False)
    ran = story("submit", "tiny", sound, "--intent", "a whisper of noise", "--wait")
    assert (ran.status, ran.data["verdict"]) == (0, "eligible")
    again = story("measure", ran.data["id"])
    assert again.status == 0
    assert again.data["evidence_digest"] != ran.data["evidence_digest"]

    assert story.ok("rollback", "tiny", "--reason", "a drill")["state"] == "rolled_back"
    assert story.ok("model", "show", "tiny")["champion_digest"] == base
    states = {row["id"]: row["state"] for row in story.ok("list")}
    assert states["P-0001"] == "rolled_back"
    assert states[ran.data["id"]] in ("quarantined", "stale")
    verified = story.ok("log", "verify", "--recompute", "--root-key", story.founded["root_keys"][0])
    assert (verified["ok"], verified["not_recomputed"]) == (True, 0)
    assert verified["recomputed"] >= 5


def test_model_add_adopts_a_base_of_one_s_own(story, tmp_path):
    story.ok("pull", "tiny", "--to", tmp_path / "base")
    before = (story.path / "interlock.toml").read_text()
    (tmp_path / "base" / "pytorch_model.bin").write_bytes(b"pickle")
    assert story("model", "add", "mine", "--base", tmp_path / "base").status == 3
    assert (story.path / "interlock.toml").read_text() == before
    (tmp_path / "base" / "pytorch_model.bin").unlink()
    data = story.ok(
        "model", "add", "mine", "--base", tmp_path / "base", "--label", "tier=test", "--items", "24"
    )
    shown = story.ok("model", "show", "mine")
    assert (shown["champion_digest"], shown["labels"]) == (data["champion_digest"], {"tier": "test"})
    values = story.ok("config", "show", "--origin")
    assert values["values"]["models.mine.items"] == 24
    assert values["origin"]["models.mine.items"].startswith("interlock.toml:")


def test_up_unattended_ends_by_itself(story):
    before = len(story.ok("list"))
    ran = story("up", "--no-console", "--rounds", "1", "--model", "tiny")
    assert ran.status == 0, ran.err
    assert len(ran.data["proposals"]) == 1
    assert len(story.ok("list")) == before + 1
    status = story.ok("loop", "status")
    assert (status["running"], status["state"]) == (False, "stopped")
    assert not list((story.path / "jobs").glob("job-*"))


def test_halt_ends_a_running_job_and_one_loop_is_enough(story):
    process = _start(story, "loop", "run", "--model", "tiny")
    try:
        _until(lambda: story.ok("loop", "status")["stage"])
        assert story("loop", "run", "--rounds", "1", "--model", "tiny").status == 6
        story.ok("halt", "--reason", "stop at once")
        _until(lambda: story.ok("loop", "status")["state"] == "halted")
        assert not list((story.path / "jobs").glob("job-*"))
        assert story("propose", "tiny").status == 6
        assert story.ok("loop", "stop")["asked"] is True
        assert process.wait(timeout=30) == 0
    finally:
        _end(process)
    story.ok("resume", "--reason", "enough")
    assert story.ok("loop", "stop")["asked"] is False
    assert story("log", "verify").status == 0


def test_up_prints_a_token_serves_the_console_and_ends_with_everything(tmp_path):
    """A new workspace: the address and a token come at once; SIGTERM leaves no process behind."""
    story = Story(tmp_path)
    port = _free_port()
    started = time.monotonic()
    process = _start(story, "up", "--port", str(port))
    told = ""
    try:
        assert process.stderr is not None
        while "Set-up token" not in told:
            line = process.stderr.readline()
            assert line, told
            told += line
        assert time.monotonic() - started < 60
        assert f"http://127.0.0.1:{port}" in told
        token = told.rpartition("token")[2].partition(":")[2].strip()
        assert token
        assert token not in (story.path / "keys" / "setup.token").read_text()
        assert (story.path / "keys" / "setup.token").stat().st_mode & 0o777 == 0o600
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 143
    finally:
        _end(process)
    _until(lambda: not _listens(port))


def test_up_names_no_address_where_somebody_else_listens(tmp_path):
    story = Story(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as other:
        process = _start(story, "up", "--port", str(other.getsockname()[1]))
        try:
            told = process.communicate(timeout=60)[1]
        finally:
            _end(process)
    assert process.returncode == 2, told
    assert "cannot listen on 127.0.0.1 port" in told
    assert "choose another --port" in told
    assert "Console: http" not in told


def _bundle(folder, champion, *, spoil):
    """A bundle as somebody else would make it: the champion, every weight nudged (or one not a number)."""
    import numpy as np

    shutil.copytree(champion, folder / "model")
    weights = folder / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    words = np.frombuffer(bytes(data[start:]), dtype="<u2").copy()
    if spoil:
        words[100] = 0x7FC0
    else:
        words[::1000] ^= 1
    data[start:] = words.tobytes()
    weights.write_bytes(data)
    manifest = {"schema": "interlock/bundle/v1", "intent": "noise", "technique": "by-hand", "seed": 1}
    (folder / "proposal.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def _require_loads(folder):
    code = "import sys; from transformers import AutoModelForCausalLM as M; M.from_pretrained(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False,
                          env={**os.environ, "HF_HUB_OFFLINE": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr


def _start(story, *words):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("INTERLOCK_")}
    return subprocess.Popen(
        [sys.executable, "-m", "ui.cli", "--workspace", str(story.path), *words], cwd=REPOSITORY, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**kept, "INTERLOCK_RUNNER": "local", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def _end(process):
    if process.poll() is None:
        process.kill()
    process.communicate()


def _until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def _listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
    except OSError:
        return False
    return True
