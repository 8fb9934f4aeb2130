"""``interlock sandbox``: the contract of running any program isolated, and that it really is."""

from __future__ import annotations

import json
import signal
import socket
import threading

import pytest
from cli_workspace import command

from guardrails.errors import IsolationUnavailableError
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


@pytest.mark.parametrize("status", [0, 1, 7, 77])
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
    assert isinstance(data["denied"], list)
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


def test_an_unavailable_level_is_status_8_and_runs_nothing(sandbox, monkeypatch, tmp_path):
    def unavailable(level, **_):
        raise IsolationUnavailableError(level, ["the probe said no"])

    monkeypatch.setattr("sandbox.isolation.levels.require", unavailable)
    marker = tmp_path / "ran"
    status, out, err = sandbox("--", "python", "-c", f"open({str(marker)!r}, 'w')")
    assert (status, out) == (8, "")
    assert "the probe said no" in err
    assert not marker.exists()
    assert run(["sandbox", "doctor"]) == 8


def test_doctor_finds_strict(capfdbinary):
    assert run(["sandbox", "doctor", "--json"]) == 0
    levels = json.loads(capfdbinary.readouterr().out)["data"]["levels"]
    assert {"level": "strict", "ok": True, "failures": []} in levels


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
