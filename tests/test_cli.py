"""The command line as a whole: options anywhere, one JSON object, statuses, and nothing heavy for an auditor."""

from __future__ import annotations

import json
import os
import sys

import pytest
from cli_workspace import PASSPHRASE, REPOSITORY, Cli, command, copy_of, workspace_with
from fakes import PASSING

from ui.cli.main import root, run
from ui.cli.session import read_passphrase


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return workspace_with(tmp_path_factory, PASSING)


@pytest.fixture
def cli(template, tmp_path, capsys):
    return Cli(copy_of(template, tmp_path / "workspace"), capsys)


# --- options and help ------------------------------------------------------------------------


def test_global_options_mean_the_same_before_and_after_the_command(template, capsys):
    for words in (
        ["--json", "--workspace", str(template), "list"],
        ["list", "--json", "--workspace", str(template)],
        ["--workspace", str(template), "list", "--json"],
    ):
        assert run(words) == 0
        assert len(json.loads(capsys.readouterr().out)["data"]) == 1


def test_a_global_option_after_a_nested_command(template, capsys):
    assert run(["log", "show", "--json", "--workspace", str(template)]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "log show"


def test_home_comes_from_the_environment(template, capsys, monkeypatch):
    monkeypatch.setenv("INTERLOCK_HOME", str(template))
    assert run(["list", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["data"]) == 1


def test_every_command_explains_itself(capsys):
    import click

    def walk(command, words):
        assert run([*words, "--help"]) == 0
        out = capsys.readouterr().out
        assert out.startswith("Usage: interlock")
        if isinstance(command, click.Group):
            context = click.Context(command, info_name="x")
            for name in command.list_commands(context):
                walk(command.get_command(context, name), [*words, name])
        else:
            assert command.help

    walk(root, [])


@pytest.mark.parametrize(
    "name",
    ["redteam", "serve"],
)  # fmt: skip
def test_what_is_not_built_does_not_pretend_to_be(name, capsys):
    assert run(name.split()) == 2
    assert "there is no command" in capsys.readouterr().err


def test_a_misspelt_command_is_answered_with_the_nearest(capsys):
    assert run(["aprove", "P-0001"]) == 2
    assert "did you mean 'approve'?" in capsys.readouterr().err
    assert run(["log", "verfy"]) == 2
    assert "did you mean 'verify'?" in capsys.readouterr().err


def test_without_a_command_the_help_goes_to_standard_error(capsys):
    assert run([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Usage: interlock" in captured.err


def test_version(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("interlock ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell, capsys):
    assert run(["completion", shell]) == 0
    assert "_INTERLOCK_COMPLETE" in capsys.readouterr().out


def test_completion_completes():
    ran = command(_INTERLOCK_COMPLETE="bash_complete", COMP_WORDS="interlock app", COMP_CWORD="1")
    assert "approve" in ran.out


# --- JSON ------------------------------------------------------------------------------------


def test_errors_are_one_object_too(cli):
    ran = cli.json("show", "P-9999")
    assert ran.status == 2
    assert ran.answer["kind"] == "error"
    assert set(ran.data) == {"message", "hint", "exit"}
    assert ran.data["exit"] == 2
    assert "P-9999" in ran.data["message"]


def test_errors_of_parsing_are_one_object_too(cli):
    for words in (
        ["reject", "P-0001"],
        ["no-such-command"],
        ["list", "--no-such-option"],
        ["list", "--limit", "0"],
        [],
    ):
        ran = cli.json(*words)
        assert ran.status == 2
        assert ran.answer["kind"] == "error"


def test_without_json_errors_go_to_standard_error(cli):
    ran = cli("show", "P-9999")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("error: ")


# --- the last fence --------------------------------------------------------------------------


def test_an_unexpected_exception_is_one_line_and_a_hint(cli, monkeypatch):
    def broken(*_):
        raise RuntimeError("the moon\nis full")

    monkeypatch.setattr("guardrails.view.View.proposals", broken)
    ran = cli("list")
    assert ran.status == 1
    assert "internal error: RuntimeError: the moon is full" in ran.err
    assert "INTERLOCK_DEBUG=1" in ran.err
    assert cli.json("list").data["exit"] == 1


def test_debug_shows_the_details(template, capsys, monkeypatch):
    monkeypatch.setenv("INTERLOCK_DEBUG", "1")
    monkeypatch.setattr("guardrails.view.View.proposals", lambda *_: 1 / 0)
    assert run(["--workspace", str(template), "list"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_is_130(cli, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("guardrails.view.View.proposals", interrupted)
    assert cli("list").status == 130
    assert cli.json("list").data["exit"] == 130


def test_a_reader_that_goes_away_is_no_error_message(template):
    import subprocess

    line = f"{sys.executable} -m ui.cli --workspace {template} log show | head -c 1"
    done = subprocess.run(
        ["bash", "-c", line], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""


def test_a_missing_package_is_named(cli, monkeypatch):
    def absent(*_):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr("guardrails.view.View.proposals", absent)
    ran = cli("list")
    assert ran.status == 1
    assert "torch" in ran.err
    assert "interlock[all]" in ran.err


# --- what it looks like ------------------------------------------------------------------------


def test_colour_only_where_it_is_wanted(template, monkeypatch):
    plain = command("--workspace", template, "list")
    assert "\x1b" not in plain.out
    coloured = command("--workspace", template, "list", FORCE_COLOR="1", TERM="xterm-256color")
    assert "\x1b[" in coloured.out
    refused = command("--workspace", template, "list", FORCE_COLOR="1", NO_COLOR="1", TERM="xterm-256color")
    assert "\x1b[3" not in refused.out


def test_a_terminal_without_unicode_gets_substitutes(template):
    ran = command("--workspace", template, "list", PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    assert ran.status == 0
    assert "P-0001" in ran.out


# --- who signs, and with what --------------------------------------------------------------------


def test_a_passphrase_is_never_an_argument(cli):
    assert cli("--passphrase", "secret", "list").status == 2
    assert cli("reject", "P-0001", "--reason", "x", "--passphrase", "secret").status == 2


def test_passphrase_from_file_and_descriptor(tmp_path):
    file = tmp_path / "p"
    file.write_text(f"{PASSPHRASE}\r\n", encoding="utf-8")
    assert read_passphrase("", str(file), None) == PASSPHRASE
    reading, writing = os.pipe()
    os.write(writing, PASSPHRASE.encode())
    os.close(writing)
    assert read_passphrase("", "", reading) == PASSPHRASE
    os.close(reading)


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines\n", b"\xff\xfe", b"x" * 5000])
def test_a_useless_passphrase_file_is_refused(cli, tmp_path, content):
    file = tmp_path / "bad"
    file.write_bytes(content)
    ran = cli("reject", "P-0001", "--reason", "x", "--as", "Ada Byron", "--passphrase-file", file)
    assert ran.status == 2
    assert cli.ok("list")[0]["state"] == "awaiting_approval"


def test_no_terminal_no_passphrase(cli):
    ran = cli("reject", "P-0001", "--reason", "x", "--as", "Ada Byron")
    assert ran.status == 2
    assert "--passphrase-file" in ran.err


def test_a_wrong_passphrase_is_denied_and_changes_nothing(cli, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.write_text("not the passphrase", encoding="utf-8")
    before = cli.ok("log", "checkpoint")
    ran = cli("reject", "P-0001", "--reason", "x", "--as", "Ada Byron", "--passphrase-file", wrong)
    assert ran.status == 6
    assert cli.ok("log", "checkpoint") == before


def test_several_people_must_say_who_signs(cli, monkeypatch):
    ran = cli.signed("reject", "P-0001", "--reason", "x")
    assert ran.status == 2
    assert "Ada Byron" in ran.err
    assert "Maya Osei" in ran.err
    assert cli.signed("reject", "P-0001", "--reason", "x", "--as", "Nobody").status == 2
    monkeypatch.setenv("INTERLOCK_AS", "Maya Osei")
    assert cli.signed("reject", "P-0001", "--reason", "x").status == 0


# --- an auditor has only the core ------------------------------------------------------------------

BLOCKER = """
import sys
HEAVY = {"torch", "transformers", "peft", "ray", "streamlit", "gymnasium", "minigrid", "tokenizers", "safetensors",
         "psutil", "pandas", "uvicorn", "starlette", "datasketch", "detect_secrets", "py3langid", "gguf"}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HEAVY:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
"""


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["list"], 0),
        (["show", "P-0001"], 0),
        (["explain", "P-0001"], 0),
        (["verdict", "P-0001"], 0),
        (["samples", "P-0001"], 0),
        (["log", "show"], 0),
        (["log", "verify", "--recompute"], 0),
        (["log", "checkpoint"], 0),
        (["model", "show", "toy"], 0),
        (["roster", "show"], 0),
        (["policy", "show"], 0),
        (["policy", "check", "policies/default.yaml"], 0),
        (["policy", "schema"], 0),
        (["config", "show", "--origin"], 0),
        (["--help"], 0),
        (["console"], 1),
    ],
)
def test_the_core_suffices_for_an_auditor(template, words, status):
    import subprocess

    code = f"{BLOCKER}\nfrom ui.cli.main import run\nsys.exit(run(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "INTERLOCK_HOME": str(template)},
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    if status:
        # The positive control: the blocker really blocks, and the message names what is missing.
        assert "not installed" in done.stderr


def test_another_package_called_guardrails_is_named(tmp_path):
    import subprocess

    (tmp_path / "guardrails").mkdir()
    (tmp_path / "guardrails" / "__init__.py").write_text("")
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); sys.path.insert(0, sys.argv[1]); "
        "from ui.cli.main import run; sys.exit(run(['list']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(REPOSITORY)], cwd=tmp_path, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "guardrails-ai" in done.stderr
    assert "Traceback" not in done.stderr
