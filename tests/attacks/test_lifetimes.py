"""Jobs that try to outlive their end, to end their supervisor, or to be taken for something else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from guardrails.errors import IsolationUnavailableError
from sandbox.isolation import levels
from sandbox.isolation.spec import JobOutcome, JobSpec, Limits, Mount

_DAEMON = (
    "import os, sys, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
    "        os.execv(sys.executable, [{marker!r}, '-c', 'import time; time.sleep(60)'])\n    os._exit(0)\n"
    "time.sleep(0.5)\n"
)


def _run(folder: Path, source: str, level: str = "strict", **limits: float) -> JobOutcome:
    folder.mkdir()
    (folder / "program.py").write_text(source)
    inputs = (Mount(folder / "program.py", "/in/program.py"),)
    spec = JobSpec(("python", "/in/program.py"), inputs, folder / "out", folder / "log", Limits(**limits))
    return levels.run_job(spec, level)


def _named(marker: str) -> list[int]:
    time.sleep(0.1)
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if marker.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


def test_a_daemon_does_not_outlive_its_job(tmp_path: Path) -> None:
    marker = f"daemon-{tmp_path.name}-{os.getpid()}"
    left = {}
    for level in ("none", "strict"):
        assert _run(tmp_path / level, _DAEMON.format(marker=marker), level).exit == 0
        left[level] = _named(marker)
        for pid in left[level]:
            os.kill(pid, signal.SIGKILL)
    assert left["none"], "the control failed: no daemon was made"
    assert left["strict"] == []


def test_at_landlock_a_daemon_cannot_leave_its_session(tmp_path: Path) -> None:
    try:
        levels.require("landlock")
    except IsolationUnavailableError as error:
        pytest.skip(str(error))
    marker = f"daemon-{tmp_path.name}-{os.getpid()}"
    _run(tmp_path / "landlock", _DAEMON.format(marker=marker), "landlock")
    assert _named(marker) == []


_NEVER_ENDS = """
import os, signal, sys, time
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
while True:
    if os.fork():
        os._exit(0)  # a new number each time: whoever kills by number comes too late
    time.sleep(0.001)
"""


def test_a_job_that_changes_its_number_all_the_time_is_ended(tmp_path: Path) -> None:
    outcome = _run(tmp_path / "job", f"MARK = 'runner-{os.getpid()}'\n" + _NEVER_ENDS, wall_s=2)
    assert outcome.exit == 0 or outcome.killed
    assert _named(str(tmp_path / "job")) == []


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
def test_a_job_does_not_outlive_a_supervisor_that_is_ended_while_stopped(
    tmp_path: Path, sent: signal.Signals
) -> None:
    """A stopped supervisor watches nothing; once it is gone, so is the job."""
    marker = f"marker-{tmp_path.name}-{os.getpid()}"
    source = (
        "import sys\nfrom pathlib import Path\nfrom sandbox.isolation import levels\n"
        "from sandbox.isolation.spec import JobSpec\nfolder = Path(sys.argv[1])\n"
        "spec = JobSpec(('python', '-c', 'import time; print(1, flush=True); time.sleep(100)', sys.argv[2]), (), "
        "folder / 'out', folder / 'log')\nlevels.run_job(spec, 'strict')"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", source, tmp_path, marker])
    deadline = time.monotonic() + 30
    while not (tmp_path / "log").exists() or not (tmp_path / "log").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert len(_named(marker)) > 1
    supervisor.send_signal(sent)
    supervisor.kill()
    supervisor.wait()
    deadline = time.monotonic() + 5
    while _named(marker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _named(marker) == []


_SHARES = """
import os, pathlib, time
mine, other = os.environ["MINE"], os.environ["OTHER"]
places = ["/tmp", "/dev/shm", "/scratch", "/var/tmp", "/dev/mqueue", "/run"]
for place in places:
    try:
        pathlib.Path(place, mine).write_text("hello")
    except OSError:
        pass
end = time.monotonic() + 1.5
met = set()
while time.monotonic() < end:
    met |= {place for place in places if os.path.exists(f"{place}/{other}")}
    time.sleep(0.05)
print(sorted(met))
"""


@pytest.mark.parametrize(("level", "together"), [("strict", False), ("none", True)])
def test_two_jobs_at_once_share_no_folder(tmp_path: Path, level: str, together: bool) -> None:
    names = [f"planted-{tmp_path.name}-{os.getpid()}-{i}" for i in (1, 2)]
    outcomes: dict[int, JobOutcome] = {}

    def start(i: int) -> None:
        folder = tmp_path / f"{level}{i}"
        folder.mkdir()
        source = (
            _SHARES if level == "strict" else _SHARES.replace('met |= {"processes"', '0 and {"processes"')
        )
        spec = JobSpec(
            ("python", "-I", "-S", "-c", source), (), folder / "out", folder / "log",
            env={"MINE": names[i], "OTHER": names[1 - i]},
        )  # fmt: skip
        outcomes[i] = levels.run_job(spec, level)

    threads = [threading.Thread(target=start, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place in ("/tmp", "/dev/shm", "/var/tmp", "/run"):
        for name in names:
            Path(place, name).unlink(missing_ok=True)
    assert [outcome.ok for outcome in outcomes.values()] == [True, True], outcomes
    assert any("/dev/shm" in outcome.log_tail for outcome in outcomes.values()) is together
    if not together:
        assert {outcome.log_tail for outcome in outcomes.values()} == {"[]\n"}


_LOUD = {
    "terminal escapes": b"\x1b]0;owned\x07\x1b[2J\x9b31m",
    "a line of a hundred megabytes": b"x" * (1 << 20) * 100,
    "NUL": b"\0" * 5000,
    "not UTF-8": b"\xff\xfe\xc3(" * 1000,
    "direction marks": "\u202eevil\u2066".encode(),
    "made-up progress": b'{"progress": 1e999, "stage": "\x1b[2Jdone"}\n{"progress": NaN}\n{"progress": {}}\n',
    "deep progress": b'{"progress":' + b"[" * 100_000 + b"\n",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", _LOUD)
def test_what_a_job_prints_is_only_text(kind: str, tmp_path: Path) -> None:
    """Through the runner that the loop uses: neither the tail nor a progress line can do anything."""
    from sandbox.rounds.jobs import show_latest
    from sandbox.runner import LocalRunner

    payload = tmp_path / "payload"
    payload.write_bytes(_LOUD[kind][: 1 << 20])
    times = max(1, len(_LOUD[kind]) >> 20)
    source = (
        "import os\ndata = open('/in/payload', 'rb').read()\n"
        f"for _ in range({times}):\n    view = memoryview(data)\n    while view: view = view[os.write(1, view):]\n"
    )
    spec = JobSpec(
        ("python", "-I", "-S", "-c", source),
        (Mount(payload, "/in/payload"),),
        tmp_path / "out",
        tmp_path / "log",
    )
    reported: list[tuple[str, float]] = []
    runner = LocalRunner()
    try:
        handle = runner.start(spec, "strict")
        while (outcome := handle.poll()) is None:
            lines = handle.lines()
            assert all(len(line) < 1 << 20 for line in lines)
            show_latest(lines, "stage", lambda text, share: reported.append((text, share)))
            time.sleep(0.01)
    finally:
        runner.shutdown()
    assert outcome.ok
    assert all(character.isprintable() or character in "\n\t" for character in outcome.log_tail)
    assert len(outcome.log_tail) < 64 << 10
    assert (tmp_path / "log").stat().st_size < 17 << 20
    assert all(text.isprintable() and 0 <= share <= 1 for text, share in reported)


def test_nothing_of_the_supervisor_is_inherited(tmp_path: Path) -> None:
    """Descriptors: three, none of them a file of the host. The control inherits one."""
    secret = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(secret, True)
    source = (
        "import json, os\nfound = {}\nfor name in os.listdir('/proc/self/fd'):\n"
        "    try: found[name] = os.readlink('/proc/self/fd/' + name)\n    except OSError: pass\n"
        "print(json.dumps([t for n, t in found.items() if t.startswith('/') and t != '/dev/null' "
        "and not t.startswith('/proc/')]))"
    )
    try:
        bare = subprocess.run(
            [sys.executable, "-c", source], capture_output=True, text=True, check=True, close_fds=False
        )
        inside = _run(tmp_path / "job", source)
    finally:
        os.close(secret)
    assert str(tmp_path) in json.loads(bare.stdout), "the control failed"
    assert json.loads(inside.log_tail) in ([], ["/in/program.py"])
