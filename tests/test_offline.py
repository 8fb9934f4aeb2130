"""Decisions and rosters signed offline: exported by the command line, signed by the real ``ssh-keygen``, handed in.

Hardware keys are a token made of software, which the real ``ssh-keygen`` enrols with and signs by (``sk_token``).
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess

import fakes
import pytest
from cli_workspace import OPERATOR, REPOSITORY, SAFETY, Cli, copy_of, workspace_with
from sk_token import Token

from guardrails import offline
from guardrails.decision_log import sshsig
from guardrails.decision_log.envelope import PAYLOAD_TYPE, open_envelope, pae, parse_statement, unpae
from guardrails.decision_log.sshsig import SK_ED25519, PublicKey
from guardrails.errors import RecordError
from guardrails.view import view_of
from ui.wiring import Workspace

pytestmark = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="OpenSSH is not installed")

NIA = "Nia Abara"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return workspace_with(tmp_path_factory, fakes.PASSING, fakes.REVIEWABLE, fakes.BLOCKED)


@pytest.fixture
def cli(template, tmp_path, capsys, monkeypatch):
    for name in ("INTERLOCK_AS", "INTERLOCK_ROOT_KEYS"):
        monkeypatch.delenv(name, raising=False)
    made = Cli(copy_of(template, tmp_path / "workspace"), capsys)
    new_key(tmp_path / "nia")
    made.ok("operator", "import-ssh", NIA, "--public-key", tmp_path / "nia.pub", "--role", "operator",
            "--as", OPERATOR)  # fmt: skip
    return made


def new_key(path, kind: str = "ed25519") -> None:
    made = subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "somebody@host", "-f", str(path)], check=False
    )
    assert made.returncode == 0


def ssh_sign(key, file, namespace: str = "interlock-decision"):
    """What the documentation tells people to type; returns the path of the signature."""
    made = subprocess.run(
        ["ssh-keygen", "-q", "-Y", "sign", "-n", namespace, "-f", str(key), str(file)],
        capture_output=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    return file.with_name(file.name + ".sig")


def ssh_accepts(public: PublicKey, file, signature) -> bool:
    """Whether ``ssh-keygen -Y verify`` says that this key signed the file as a decision."""
    allowed = file.with_name("allowed")
    allowed.write_text(f'signer namespaces="interlock-decision" {public.text}\n')
    words = ["-f", allowed, "-I", "signer", "-n", "interlock-decision", "-s", signature]
    with file.open("rb") as message:
        ran = subprocess.run(
            ["ssh-keygen", "-Y", "verify", *words], stdin=message, capture_output=True, check=False
        )
    return ran.returncode == 0


def newest(cli, record: str = ""):
    """The newest record (of a kind) and its raw envelope."""
    with view_of(Workspace(cli.path).log) as view:
        return [e for e in view.snapshot.entries() if not record or e.statement.record == record][-1]


# --- the whole way -----------------------------------------------------------------------------


def test_an_imported_key_approves_offline_and_standard_tools_check_it(cli, tmp_path):
    out = tmp_path / "decision"
    said = cli.ok("approve", "P-0001", "--as", NIA, "--reason", "read all samples", "--export", out)
    assert said["body"]["surface"] == "offline"
    assert said["texts"] == ["read all samples"]
    assert cli.state("P-0001") == "awaiting_approval", "an export decides nothing"
    assert out.stat().st_mode & 0o077 == 0

    shown = cli("decision", "show", out)
    assert "read all samples" in shown.out
    assert "sha256:" in shown.out

    signature = ssh_sign(tmp_path / "nia", out)
    done = cli.ok("approve", "P-0001", "--import", signature)
    assert done["state"] == "promoted"
    assert done["role"] == "operator"
    assert done["signed_by"]["type"] == "ssh-ed25519"
    assert cli.ok("show", "P-0001")["votes"][0]["surface"] == "offline"
    assert cli.ok("log", "verify")["ok"]

    # From the log alone: the envelope's payload and signature, and ssh-keygen.
    entry = newest(cli, "decision")
    raw = json.loads(entry.envelope)
    message = tmp_path / "message"
    message.write_bytes(pae(raw["payloadType"], base64.b64decode(raw["payload"])))
    assert message.read_bytes() == out.read_bytes()
    armoured = tmp_path / "from-the-log.sig"
    armoured.write_text(sshsig.armor(base64.b64decode(raw["signatures"][0]["sig"])))
    public = PublicKey.parse((tmp_path / "nia.pub").read_text())
    assert ssh_accepts(public, message, armoured)
    message.write_bytes(message.read_bytes().replace(b"approve", b"reject "))
    assert not ssh_accepts(public, message, armoured)


@pytest.mark.parametrize(
    ("words", "effect"),
    [
        (("reject", "P-0001"), "rejected"),
        (("withdraw", "P-0002"), "withdrawn"),
        (("request-changes", "P-0001"), "awaiting_approval"),
        (("halt",), "done"),
    ],
)
def test_every_decision_can_be_signed_offline(cli, tmp_path, words, effect):
    out = tmp_path / "decision"
    cli.ok(*words, "--as", NIA, "--reason", "because", "--export", out)
    assert cli.ok(*words, "--import", ssh_sign(tmp_path / "nia", out))["state"] == effect


def test_a_remark_offline_and_a_no_that_is_no_yes(cli, tmp_path):
    out = tmp_path / "remark"
    cli.ok("comment", "P-0001", "--as", NIA, "--text", "looks odd", "--export", out)
    signature = ssh_sign(tmp_path / "nia", out)
    assert cli("comment", "P-0001", "--text", "x", "--import", signature).status == 2
    assert cli("comment", "P-0001", "--import", signature).status == 0
    waiver = ("waiver", "add", "P-0003", "--rule", "pii", "--until", "72h", "--as", OPERATOR, "--reason", "x")
    request = cli.ok(*waiver)["request"]
    out = tmp_path / "no"
    cli.ok("reject", request, "--as", NIA, "--reason", "no", "--export", out)
    signature = ssh_sign(tmp_path / "nia", out)
    refused(cli, signature, 2, "what was signed is: reject", "approve", request)
    assert cli("reject", request, "--import", signature).status == 0


def test_halt_and_resume_waiver_policy_and_rollback_offline(cli, tmp_path):
    def decide(*words):
        out = tmp_path / f"decision-{len(list(tmp_path.iterdir()))}"
        cli.ok(*words, "--as", NIA, "--reason", "because", "--export", out)
        return cli.ok(*words, "--import", ssh_sign(tmp_path / "nia", out))

    assert decide("halt")["state"] == "done"
    assert decide("resume")["state"] == "done"
    first = decide("waiver", "add", "P-0003", "--rule", "pii", "--until", "72h")
    assert (first["action"], first["state"]) == ("waive", "open")
    # A second signature on an open request, by its id, offline too.
    out = tmp_path / "second"
    new_key(tmp_path / "sue")
    cli.ok(
        "operator",
        "import-ssh",
        "Sue",
        "--public-key",
        tmp_path / "sue.pub",
        "--role",
        "safety",
        "--as",
        OPERATOR,
    )
    again = decide("waiver", "add", "P-0003", "--rule", "pii", "--until", "72h")["request"]
    cli.ok("approve", again, "--as", "Sue", "--reason", "seen it", "--export", out)
    assert cli.ok("approve", again, "--import", ssh_sign(tmp_path / "sue", out))["state"] == "done"
    policy = tmp_path / "main.yaml"
    policy.write_text(fakes.policy(coolDown="5m").files["main.yaml"], encoding="utf-8")
    assert decide("policy", "activate", policy)["state"] == "done"
    base = cli.ok("model", "show", "toy")["champion_digest"]
    cli.ok("tick")
    assert decide("approve", "P-0001")["state"] == "approved"
    assert cli.ok("log", "verify")["ok"]
    assert base == cli.ok("model", "show", "toy")["champion_digest"]


def test_a_policy_that_wants_offline_signatures_gets_no_others(cli, tmp_path):
    policy = tmp_path / "main.yaml"
    text = (
        fakes.policy().files["main.yaml"].replace("  coolDown: 0m", "  coolDown: 0m\n  surfaces: [offline]")
    )
    policy.write_text(text, encoding="utf-8")
    assert (
        cli.ok("policy", "activate", policy, "--as", OPERATOR, "--reason", "keys at home")["state"] == "done"
    )
    cli.ok("tick")
    refused = cli.signed("approve", "P-0001", "--as", OPERATOR, "--reason", "quick")
    assert refused.status == 6
    out = tmp_path / "decision"
    cli.ok("approve", "P-0001", "--as", NIA, "--reason", "slow", "--export", out)
    assert cli.ok("approve", "P-0001", "--import", ssh_sign(tmp_path / "nia", out))["state"] == "promoted"


# --- what is refused, and why ------------------------------------------------------------------


@pytest.fixture
def exported(cli, tmp_path):
    out = tmp_path / "decision"
    cli.ok("approve", "P-0001", "--as", NIA, "--reason", "fine", "--export", out)
    return out


def refused(cli, signature, status: int, reason: str, *words) -> None:
    before = cli.entries()
    ran = cli(*(words or ("approve", "P-0001")), "--import", signature)
    assert (ran.status, reason in ran.err) == (status, True), ran.err
    assert cli.entries() == before


def test_the_control_is_accepted(cli, exported, tmp_path):
    assert cli("approve", "P-0001", "--import", ssh_sign(tmp_path / "nia", exported)).status == 0


def test_a_changed_statement(cli, exported, tmp_path):
    signature = ssh_sign(tmp_path / "nia", exported)
    exported.write_bytes(exported.read_bytes().replace(b'"P-0001"', b'"P-0002"'))
    refused(cli, signature, 6, "does not fit what it should sign")
    exported.write_bytes(exported.read_bytes()[:-1])
    refused(cli, signature, 3, "not a statement as Interlock exports it")


def test_a_signature_in_another_namespace(cli, exported, tmp_path):
    refused(cli, ssh_sign(tmp_path / "nia", exported, "file"), 6, "namespace 'file'")


def test_a_key_that_nobody_knows_and_the_key_of_somebody_else(cli, exported, tmp_path):
    new_key(tmp_path / "eve")
    refused(cli, ssh_sign(tmp_path / "eve", exported), 6, "a key that is not in the roster")
    new_key(tmp_path / "ben")
    cli.ok("operator", "import-ssh", "Ben", "--public-key", tmp_path / "ben.pub", "--as", OPERATOR)
    (tmp_path / "decision.sig").unlink()
    refused(cli, ssh_sign(tmp_path / "ben", exported), 6, f"the statement is {NIA}'s, the signature is Ben's")


def test_a_statement_that_became_stale(cli, exported, tmp_path):
    signature = ssh_sign(tmp_path / "nia", exported)
    new_key(tmp_path / "ben")
    cli.ok("operator", "import-ssh", "Ben", "--public-key", tmp_path / "ben.pub", "--as", OPERATOR)
    refused(cli, signature, 6, "prepared under roster")


def test_a_decision_that_was_handed_in_already(cli, exported, tmp_path):
    signature = ssh_sign(tmp_path / "nia", exported)
    cli.ok("approve", "P-0001", "--import", signature)
    refused(cli, signature, 6, "already in the log")


def test_a_key_that_was_revoked_after_signing(cli, exported, tmp_path):
    signature = ssh_sign(tmp_path / "nia", exported)
    cli.ok("operator", "revoke", NIA, "--as", OPERATOR)
    refused(cli, signature, 6, "not signed by a key of")


def test_openings_that_are_missing_or_say_something_else(cli, exported, tmp_path):
    signature = ssh_sign(tmp_path / "nia", exported)
    beside = tmp_path / "decision.openings"
    text = beside.read_text()
    beside.write_text(text.replace("fine", "awful"))
    refused(cli, signature, 3, "a text in it is not the one that the statement commits to")
    beside.unlink()
    refused(cli, signature, 3, "cannot be read")
    beside.write_text("{}")
    refused(cli, signature, 3, "not the openings")


def test_a_statement_for_another_log(cli, exported, tmp_path):
    _, payload = unpae(exported.read_bytes())
    statement = parse_statement(payload)
    foreign = payload.replace(statement.log.encode(), b"interlock/another")
    exported.write_bytes(pae(PAYLOAD_TYPE, foreign))
    refused(cli, ssh_sign(tmp_path / "nia", exported), 3, "it is for the log interlock/another")


def test_a_statement_that_hides_where_it_was_signed(cli, exported, tmp_path):
    _, payload = unpae(exported.read_bytes())
    exported.write_bytes(pae(PAYLOAD_TYPE, payload.replace(b'"surface":"offline"', b'"surface":"console"')))
    refused(cli, ssh_sign(tmp_path / "nia", exported), 3, "says that it was made at the console")


def test_the_command_must_be_the_one_that_was_exported(cli, exported, tmp_path):
    signature = ssh_sign(tmp_path / "nia", exported)
    for words in (("reject", "P-0001"), ("approve", "P-0002"), ("halt",)):
        refused(cli, signature, 2, "what was signed is: approve P-0001", *words)
    assert cli("approve", "P-0001", "--import", signature, "--reason", "x").status == 2
    assert cli("approve", "P-0001", "--import", exported).status == 2


def test_an_export_overwrites_nothing_and_needs_a_reason(cli, exported):
    words = ("approve", "P-0001", "--as", NIA)
    assert cli(*words, "--reason", "again", "--export", exported).status == 2
    assert cli(*words, "--export", exported.with_name("other")).status == 2
    assert not exported.with_name("other").exists()


def test_a_file_that_is_no_signature(cli, exported, tmp_path):
    for text in ("", "nonsense", "-----BEGIN SSH SIGNATURE-----\nU1NI\n-----END SSH SIGNATURE-----\n"):
        (tmp_path / "decision.sig").write_text(text)
        ran = cli("approve", "P-0001", "--import", tmp_path / "decision.sig")
        assert ran.status == 3, ran.err


@pytest.mark.parametrize(
    "data",
    [b"", b"DSSEv1 ", b"DSSEv1 2 ab 1 xy", b"DSSEv1 2 ab 01 x", b"DSSEv1 99 ab 1 x", b"DSSEv2 2 ab 1 x",
     b"DSSEv1 02 ab 1 x", b"DSSEv1 2 ab 1 x\n"],
)  # fmt: skip
def test_only_the_very_encoding_is_read_back(data):
    assert unpae(b"DSSEv1 2 ab 1 x") == ("ab", b"x")
    with pytest.raises(RecordError):
        unpae(data)


# --- hardware keys -----------------------------------------------------------------------------


@pytest.fixture
def token():
    with Token() as held:
        yield held


@pytest.fixture
def tor(cli, token, tmp_path):
    """Somebody whose key is in a token adds it with options, and makes a decision to be signed; returns both."""

    def made(*options: str):
        token.enrol(tmp_path / "tor", *options)
        public = tmp_path / "tor.pub"
        cli.ok("operator", "import-ssh", "Tor", "--public-key", public, "--as", OPERATOR)
        out = tmp_path / "decision"
        cli.ok("approve", "P-0001", "--as", "Tor", "--reason", "touched", "--export", out)
        return tmp_path / "tor", out

    return made


@pytest.mark.parametrize(("options", "verified"), [((), False), (("verify-required",), True)])
def test_a_hardware_key_approves_and_what_it_said_is_shown(cli, token, tor, options, verified):
    key, out = tor(*options)
    token.counter = 41
    signature = token.sign(key, out)
    public = PublicKey.parse(key.with_suffix(".pub").read_text())
    assert (public.kind, public.application) == (SK_ED25519, b"ssh:")
    assert ssh_accepts(public, out, signature)
    done = cli.ok("approve", "P-0001", "--import", signature)
    assert done["state"] == "promoted"
    assert done["signed_by"] == {
        "key": public.keyid, "type": SK_ED25519, "touched": True, "verified": verified, "counter": 42,
    }  # fmt: skip
    position = done["record"]["seq"]
    shown = cli.ok("log", "show", position)
    assert (shown["signed"], shown["surface"]) == ([done["signed_by"]], "offline")
    told = cli("log", "show", position).out
    assert f"touched, {'a PIN or finger' if verified else 'no PIN'} was checked, its counter says 42" in told
    assert "offline, as the signer says" in told
    service = cli.ok("log", "show", position + 1)["signed"][0]
    assert (service["type"], service["touched"]) == ("service", None)
    assert cli.ok("log", "verify")["ok"]


def test_a_hardware_key_that_asks_for_no_touch_cannot_decide(cli, token, tor):
    refused(cli, token.sign(*tor("no-touch-required")), 6, "nobody touched it")


def test_a_pin_is_no_touch(cli, token, tor):
    key, out = tor("verify-required")
    token.touched = False
    signature = token.sign(key, out)
    assert sshsig.read(sshsig.dearmor(signature.read_text())).verified
    refused(cli, signature, 6, "nobody touched it")


def test_a_hardware_signature_is_for_its_statement_and_by_its_token(cli, token, tor, tmp_path):
    key, out = tor()
    public = PublicKey.parse(key.with_suffix(".pub").read_text())
    with Token() as another:
        signature = another.sign(key, out)  # the handle was copied, the token was not
    assert not ssh_accepts(public, out, signature)
    refused(cli, signature, 6, "does not fit what it should sign")
    signature.unlink()
    whole = out.read_bytes()
    out.write_bytes(whole.replace(b'"P-0001"', b'"P-0002"'))
    signature = token.sign(key, out)
    out.write_bytes(whole)
    assert not ssh_accepts(public, out, signature)
    refused(cli, signature, 6, "does not fit what it should sign")


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_other_kinds_of_keys_are_not_imported(cli, tmp_path, kind):
    new_key(tmp_path / "other", kind)
    ran = cli.signed(
        "operator", "import-ssh", "Ola", "--public-key", tmp_path / "other.pub", "--as", OPERATOR
    )
    assert ran.status == 2
    assert "cannot sign decisions" in ran.err
    assert "ssh-keygen -t ed25519" in ran.err


# --- rosters -----------------------------------------------------------------------------------


def test_a_root_signs_a_roster_offline(cli, tmp_path):
    proposed, out = tmp_path / "roster", tmp_path / "to-sign"
    cli.ok("roster", "propose", "--roles", f"{NIA}=operator,root", "--threshold", "2", "--out", proposed)
    cli.ok("roster", "sign", proposed, "--export", out)
    shown = cli("decision", "show", out)
    assert "roster" in shown.out
    early = cli("roster", "commit", proposed)
    assert early.status == 6
    assert "signatures are missing: 1 of the roots now, 2 of the roots that it names" in early.err
    data = cli.ok("roster", "sign", proposed, "--import", ssh_sign(tmp_path / "nia", out))
    assert (data["missing_old"], data["missing_new"], data["complete"]) == (1, 1, False)
    assert f"{NIA} " in " ".join(data["changes"])
    data = cli.ok("roster", "sign", proposed, "--as", OPERATOR)
    assert data["complete"]
    done = cli.ok("roster", "commit", proposed)
    assert cli.ok("roster", "show")["threshold"] == 2
    assert done["record"]["seq"] == newest(cli, "roster").seq
    assert len(open_envelope(newest(cli, "roster").envelope).signatures) == 2
    assert cli.ok("log", "verify")["ok"]
    alone = cli.signed("operator", "revoke", SAFETY, "--as", OPERATOR)
    assert alone.status == 6
    assert "2 roots together" in alone.err
    assert "interlock roster propose --revoke" in alone.err


def test_a_roster_file_that_was_changed_or_overtaken(cli, tmp_path):
    proposed = tmp_path / "roster"
    cli.ok("roster", "propose", "--revoke", SAFETY, "--out", proposed)
    cli.ok("roster", "sign", proposed, "--as", OPERATOR)
    value = json.loads(proposed.read_text())
    payload = base64.b64decode(value["payload"]).replace(b'"threshold":1', b'"threshold":2')
    (tmp_path / "changed").write_text(json.dumps({**value, "payload": base64.b64encode(payload).decode()}))
    assert cli("roster", "commit", tmp_path / "changed").status == 6
    (tmp_path / "broken").write_text(proposed.read_text()[:-20])
    assert cli("roster", "commit", tmp_path / "broken").status == 3
    new_key(tmp_path / "eve")
    cli.ok("roster", "sign", proposed, "--export", tmp_path / "x")
    ran = cli("roster", "sign", proposed, "--import", ssh_sign(tmp_path / "eve", tmp_path / "x"))
    assert (ran.status, "not the key of a root" in ran.err) == (6, True)
    cli.ok("operator", "revoke", NIA, "--as", OPERATOR)
    ran = cli("roster", "commit", proposed)
    assert (ran.status, "prepare it again" in ran.err) == (6, True)


def test_the_rendering_leaves_nothing_out(cli, exported):
    """Every scalar of the signed statement stands in what is printed."""
    statement = offline.read_statement(exported.read_bytes(), "x")
    shown = " ".join(cli("decision", "show", exported).out.split())

    def scalars(value):
        if isinstance(value, dict):
            return [found for item in value.values() for found in scalars(item)]
        if isinstance(value, list):
            return [found for item in value for found in scalars(item)]
        return [str(value)] if value != "" else []

    squeezed = shown.replace(" ", "")
    for scalar in [*scalars(dict(statement.body)), statement.log, statement.time]:
        assert scalar.replace(" ", "") in squeezed, scalar


# --- the auditors' page, to the letter ---------------------------------------------------------


def documented() -> list[list[str]]:
    """The command blocks of the page's section on standard tools."""
    page = (REPOSITORY / "docs" / "auditors.md").read_text(encoding="utf-8")
    section = page.partition("## With standard tools")[2].partition("\n## ")[0]
    return [
        [line.strip() for line in block.splitlines()]
        for block in section.split("\n\n") if block.startswith("    ")
    ]  # fmt: skip


def shell(folder, lines, **env):
    script = "set -eo pipefail\n" + "\n".join(lines)
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, **env}
    )  # fmt: skip


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_the_documented_commands_check_a_decision_and_a_service(cli, exported, tmp_path):
    cli.ok("approve", "P-0001", "--import", ssh_sign(tmp_path / "nia", exported))
    person, service = documented()
    assert person[0].startswith("interlock --workspace COPY log proof 17 ")
    for seq, words, env in (
        (newest(cli, "decision").seq, person[1:], {}),
        (newest(cli, "promotion").seq, [*person[1:4], *service],
         {"SERVICE_KEY": cli.ok("roster", "show")["services"]["gate"]}),
    ):  # fmt: skip
        folder = tmp_path / str(seq)
        folder.mkdir()
        shutil.copy(tmp_path / "nia.pub", folder)
        cli.ok("log", "proof", seq, "--to", folder / "17.tlog-proof", "--record-to", folder / "record.json")
        good = shell(folder, words, **env)
        assert good.returncode == 0, good.stderr
        record = (folder / "record.json").read_text()
        payload = base64.b64decode(json.loads(record)["payload"])
        other = base64.b64encode(payload.replace(b"P-0001", b"P-0002")).decode()
        (folder / "record.json").write_text(record.replace(json.loads(record)["payload"], other))
        assert shell(folder, words, **env).returncode != 0
