"""``interlock sandbox``: the contract of running any program isolated, and that it really is."""

from __future__ import annotations

import json
import signal
import socket
import threading

import pytest
from cli_workspace import command

from guardrails.errors import IsolationUnavailableError
from sandbox.isolation import notify, probe
from ui.cli import quantities
from ui.cli.main import run


@pytest.fixture
def sandbox(capfdbinary):
    """Run ``interlock sandbox run`` in this process; gives (status, standard output, standard error)."""

    def go(*words):
        capfdbinary.readouterr()
        status = run(["sandbox", "run", *map(str, words)])
        out, err = capfdbinary.readouterr()
        return status, out.decode("utf-8", "replace"), err.decode("utf-8", "replace")

    return go


def test_python_is_our_interpreter_with_its_packages(sandbox):
    status, out, _ = sandbox("--", "python", "-c", "import numpy, guardrails.records; print('fine')")
    assert (status, out) == (0, "fine\n")


@pytest.mark.parametrize("status", [0, 1, 7, 97, 126, 255])
def test_the_child_s_status_is_ours(sandbox, status):
    assert sandbox("--", "python", "-c", f"raise SystemExit({status})")[0] == status


def test_a_signal_is_128_plus_its_number(sandbox):
    code = "import os; os.kill(os.getpid(), 15)"
    assert sandbox("--", "python", "-c", code)[0] == 128 + signal.SIGTERM


def test_json_gives_the_outcome_and_the_child_s_output_goes_to_standard_error(sandbox):
    status, out, err = sandbox("--json", "--", "python", "-c", "print('from the child'); raise SystemExit(3)")
    assert status == 3
    answer = json.loads(out)
    assert answer["kind"] == "sandbox run"
    data = answer["data"]
    assert {"level", "exit", "killed", "denied", "usage"} <= set(data)
    assert (data["level"], data["exit"], data["killed"]) == ("strict", 3, None)
    assert {denial["what"]: denial["count"] for denial in data["denied"]}[notify.FILES] is None
    assert data["limit_hit"] is None
    assert data["limits"]["wall_s"] == 600
    assert set(data["usage"]) == {"wall_s", "cpu_s", "memory_bytes", "disk_bytes"}
    assert data["usage"]["wall_s"] > 0
    assert "from the child" in err


def test_options_after_the_program_belong_to_the_program(sandbox):
    code = "import sys; print(sys.argv[1:])"
    assert sandbox("python", "-c", code, "--json", "--level", "x")[1] == "['--json', '--level', 'x']\n"


def test_in_is_mounted_whole_and_read_only(sandbox, tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "a file with spaces.txt").write_text("hello")
    (tmp_path / "in" / ".hidden").write_text("there")
    (tmp_path / "in" / "deep" / "x").write_text("below")
    (tmp_path / "in" / "link").symlink_to("/etc/shadow")
    code = (
        "import os; print(sorted(os.listdir('/in'))); print(open('/in/deep/x').read())\n"
        "try: open('/in/new', 'w')\nexcept OSError as error: print('refused', error.errno in (13, 30))\n"
        "try: open('/in/link')\nexcept OSError: print('leads nowhere')\n"
    )
    status, out, _ = sandbox("--in", tmp_path / "in", "--", "python", "-c", code)
    assert status == 0
    assert out.splitlines() == [
        "['.hidden', 'a file with spaces.txt', 'deep', 'link']", "below", "refused True", "leads nowhere",
    ]  # fmt: skip
    assert not (tmp_path / "in" / "new").exists()


def test_out_is_kept_and_must_be_empty(sandbox, tmp_path):
    out = tmp_path / "out"
    words = ("--out", out, "--", "python", "-c", "open('/out/x','w').write('kept'); open('/scratch/y','w')")
    assert sandbox(*words)[0] == 0
    assert [path.name for path in out.iterdir()] == ["x"]
    assert (out / "x").read_text() == "kept"
    status, _, err = sandbox(*words)
    assert status == 2
    assert "not empty" in err


@pytest.mark.parametrize("level", ["none", "strict"])
def test_the_network_is_out_of_reach_but_at_level_none(sandbox, level):
    """The attack succeeds without isolation: that is the positive control."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        reached = threading.Event()

        def accept():
            try:
                server.accept()
                reached.set()
            except OSError:
                pass

        threading.Thread(target=accept, daemon=True).start()
        code = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 3)"
        status = sandbox("--level", level, "--", "python", "-c", code)[0]
        reached.wait(0.5)
    assert (status == 0, reached.is_set()) == ((True, True) if level == "none" else (False, False))


@pytest.mark.parametrize("level", ["none", "strict"])
def test_the_host_s_files_are_out_of_reach_but_at_level_none(sandbox, tmp_path, level):
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    status, out, _ = sandbox("--level", level, "--", "python", "-c", f"print(open({str(secret)!r}).read())")
    assert (status == 0) == ("the secret" in out) == (level == "none")


def test_a_limit_ends_the_program(sandbox):
    status, out, _ = sandbox("--json", "--wall", "1", "--", "python", "-c", "import time; time.sleep(60)")
    data = json.loads(out)["data"]
    assert status == 128 + signal.SIGKILL
    assert data["exit"] is None
    assert "wall" in data["killed"]
    assert data["usage"]["wall_s"] < 20


@pytest.mark.parametrize(
    ("words", "limit", "code"),
    [
        (("--wall", "500ms"), "wall_s", "import time; time.sleep(60)"),
        (("--cpu", "0.5s"), "cpu_s", "while True: pass"),
        (("--output", "1M"), "output_bytes", "open('/out/x', 'wb').write(bytes(5 << 20))"),
        (("--disk", "1M"), "output_bytes", "open('/out/x', 'wb').write(bytes(5 << 20))"),
        (
            ("--memory", "100MiB"),
            "memory_bytes",
            (
                "import os, time\nfor _ in range(3):\n if os.fork() == 0: x = bytearray(60 << 20); time.sleep(9)\n"
                "time.sleep(60)"
            ),
        ),
    ],
)
def test_limits_take_units_and_the_report_says_which_was_hit(sandbox, words, limit, code):
    status, out, _ = sandbox("--json", *words, "--", "python", "-c", code)
    data = json.loads(out)["data"]
    assert data["limit_hit"] == limit, data
    assert status >= 128 or status == 1


@pytest.mark.parametrize("amount", ["0", "-1", "nan", "inf", "12 parsecs", "", "1e300", "MiB"])
def test_an_amount_without_meaning_is_a_usage_error(sandbox, amount):
    assert sandbox("--memory", amount, "--", "true")[0] == 2
    assert sandbox("--wall", amount, "--", "true")[0] == 2


@pytest.mark.parametrize(
    ("text", "amount"),
    [("1000", 1000), ("1k", 1000), ("1Ki", 1024), ("1.5 MiB", 1572864), ("2G", 2 * 10**9), ("1gib", 1 << 30)],
)
def test_sizes_are_decimal_unless_they_say_otherwise(text, amount):
    assert quantities.BYTES.convert(text, None, None) == amount


def test_refused_calls_are_in_the_report_and_told_to_people(sandbox):
    code = "import socket\nfor _ in range(2):\n try: socket.socket()\n except OSError: pass"
    _, out, _ = sandbox("--json", "--", "python", "-c", code)
    assert {"what": "socket", "count": 2, "answer": "EPERM"} in json.loads(out)["data"]["denied"]
    _, _, err = sandbox("--", "python", "-c", code)
    assert "refused: socket (2)" in err


def test_level_none_says_that_nothing_is_protected(sandbox):
    status, out, err = sandbox("--level", "none", "--", "echo", "hi")
    assert (status, out) == (0, "hi\n")
    assert "nothing is protected" in err


@pytest.mark.parametrize("program", ["no-such-program", "/no/such/program", "./x", "/etc", "/in", ""])
def test_a_program_that_cannot_be_started_is_a_usage_error(sandbox, program):
    status, out, err = sandbox("--", program)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")


def test_an_out_that_is_a_file_is_a_usage_error(sandbox, tmp_path):
    (tmp_path / "file").write_text("x")
    assert sandbox("--out", tmp_path / "file", "--", "true")[0] == 2
    assert sandbox("--out", tmp_path / "file" / "below", "--", "true")[0] == 2


def test_paths_may_hold_spaces_and_any_letters(sandbox, tmp_path):
    (tmp_path / "a b ü").mkdir()
    (tmp_path / "a b ü" / "ü x").write_text("hello")
    words = ("--in", tmp_path / "a b ü", "--out", tmp_path / "out ✓", "--", "cp", "/in/ü x", "/out/y")
    assert sandbox(*words)[0] == 0
    assert (tmp_path / "out ✓" / "y").read_text() == "hello"


def test_output_beyond_the_cap_is_said_to_be_missing(sandbox):
    status, out, err = sandbox("--json", "--", "head", "-c", "20000000", "/dev/zero")
    assert status == 0
    assert json.loads(out)["data"]["output_cut"] is True
    assert "reached its cap" in err
    assert json.loads(sandbox("--json", "--", "echo", "x")[1])["data"]["output_cut"] is False


def test_there_is_no_standard_input(sandbox):
    assert sandbox("--", "cat")[:2] == (0, "")


def test_torch_can_be_imported(sandbox):
    pytest.importorskip("torch")
    code = "import torch; print(int(torch.ones(2).sum()))"
    assert sandbox("--", "python", "-c", code)[:2] == (0, "2\n")


def test_output_of_the_child_is_passed_on_to_the_byte(sandbox, capfdbinary):
    capfdbinary.readouterr()
    assert (
        run(
            [
                "sandbox",
                "run",
                "--",
                "python",
                "-c",
                r"import sys; sys.stdout.buffer.write(b'\x00\xff\x1b[1m')",
            ]
        )
        == 0
    )
    assert capfdbinary.readouterr().out == b"\x00\xff\x1b[1m"


def _nothing_holds(level):
    return probe.Report(
        level, (probe.Probe("the probe said no", probe.FAILED, "install it"),), observes=False
    )


def test_an_unavailable_level_is_status_8_and_runs_nothing(sandbox, monkeypatch, tmp_path):
    def unavailable(level, **_):
        raise IsolationUnavailableError(level, ["the probe said no"])

    monkeypatch.setattr("sandbox.isolation.levels.require", unavailable)
    monkeypatch.setattr("sandbox.isolation.levels.examine", _nothing_holds)
    marker = tmp_path / "ran"
    status, out, err = sandbox("--", "python", "-c", f"open({str(marker)!r}, 'w')")
    assert (status, out) == (8, "")
    assert "the probe said no" in err
    assert not marker.exists()
    assert run(["sandbox", "doctor"]) == 8


def test_doctor_finds_strict_and_lists_what_it_tried(capfdbinary):
    assert run(["sandbox", "doctor", "--json"]) == 0
    strict = json.loads(capfdbinary.readouterr().out)["data"]["levels"][0]
    assert (strict["level"], strict["ok"], strict["failures"]) == ("strict", True, [])
    assert {"connect by TCP", "read a file outside"} <= {probe["name"] for probe in strict["probes"]}
    assert all(probe["outcome"] == "stopped" for probe in strict["probes"])


def test_doctor_gives_each_failed_probe_its_remedy(capfdbinary, monkeypatch):
    monkeypatch.setattr("sandbox.isolation.levels.examine", _nothing_holds)
    assert run(["sandbox", "doctor", "--json"]) == 8
    for level in json.loads(capfdbinary.readouterr().out)["data"]["levels"]:
        assert not level["ok"]
        assert level["probes"] == [{"name": "the probe said no", "outcome": "failed", "remedy": "install it"}]
        assert level["failures"][0] == "the probe said no"


def test_an_interrupt_ends_the_program_too(tmp_path):
    import subprocess
    import sys
    import time

    from cli_workspace import REPOSITORY

    out = tmp_path / "out"
    code = "import time\nfor i in range(600):\n print(i, flush=True)\n time.sleep(.1)"
    words = [sys.executable, "-m", "ui.cli", "sandbox", "run", "--out", str(out), "--", "python", "-c", code]
    # A test run in the background may itself ignore interrupts; a program at a terminal does not.
    process = subprocess.Popen(
        words,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - started < 15
    assert b"Traceback" not in err


def test_it_needs_no_workspace(tmp_path):
    ran = command("sandbox", "run", "--", "python", "-c", "print(1)", cwd=tmp_path)
    assert (ran.status, ran.out) == (0, "1\n")
    assert list(tmp_path.iterdir()) == []
