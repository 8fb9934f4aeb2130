"""Levels, their probe, limits and what a job finds inside."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from guardrails.errors import IsolationUnavailableError, JobFailedError, UsageError
from sandbox.isolation import (
    bubblewrap,
    canary,
    folders,
    interpreter,
    landlock,
    levels,
    notify,
    probe,
    profile,
    startup,
)
from sandbox.isolation.meter import folder_bytes
from sandbox.isolation.spec import (
    MIB,
    JobOutcome,
    JobSpec,
    Limits,
    Mount,
    outcome_from_json,
    outcome_to_json,
    spec_from_json,
    spec_to_json,
)

Run = Callable[..., JobOutcome]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs Python source at a level."""
    count = iter(range(1000))

    def start(
        source: str,
        *,
        level: str = "strict",
        inputs: tuple[Mount, ...] = (),
        should_stop: Callable[[], str] = lambda: "",
        env: dict[str, str] | None = None,
        **limits: float,
    ) -> JobOutcome:
        folder = tmp_path / f"run{next(count)}"
        folder.mkdir()
        program = folder / "program.py"
        program.write_text(source)
        mounts = (Mount(program, "/in/program.py"), *inputs)
        spec = JobSpec(
            ("python", "/in/program.py"), mounts, folder / "out", folder / "log", Limits(**limits), env or {}
        )
        return levels.run_job(spec, level, should_stop)

    return start


# --- levels and their probe ------------------------------------------------------------------


def test_strict_holds_here() -> None:
    assert probe.failed_attacks("strict") == []


def test_the_canary_gets_through_where_nothing_guards() -> None:
    results = probe.run_canary("none", processes=400)
    blocked = {name for name in canary.ATTACKS if results[name] != "open"}
    # The kernel may forbid everybody but root to make namespaces; everything else must be open.
    assert blocked <= {"enter a new namespace"}


def test_levels_are_ordered() -> None:
    assert levels.LEVELS == ("none", "landlock", "strict+gpu", "strict")
    assert levels.at_least("strict", "landlock")
    assert not levels.at_least("none", "landlock")
    with pytest.raises(UsageError, match="isolation level 'docker'"):
        levels.require("docker")


@pytest.fixture
def unprobed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_passed", set())


def _with_bwrap(monkeypatch: pytest.MonkeyPatch, path: Path | None) -> None:
    monkeypatch.setattr(bubblewrap, "find_bwrap", lambda: path)


def _script(path: Path, text: str) -> Path:
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    return path


# A stand-in that sets nothing up: it reports a process, as bwrap does, and starts the command as it is.
_MERELY_EXECUTES = """
import json, os, sys
split = sys.argv.index("--")
info = int(sys.argv[sys.argv.index("--info-fd") + 1])
os.write(info, json.dumps({"child-pid": os.getpid()}).encode())
os.execv(sys.argv[split + 1], sys.argv[split + 1:])
"""


@pytest.mark.usefixtures("unprobed")
def test_a_bwrap_that_merely_executes_is_caught(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _with_bwrap(monkeypatch, _script(tmp_path / "bwrap", _MERELY_EXECUTES))
    with pytest.raises(IsolationUnavailableError, match="strict") as caught:
        levels.require("strict")
    assert any("remedy" in failure for failure in caught.value.failures)


@pytest.mark.usefixtures("unprobed")
@pytest.mark.parametrize(
    ("dropped", "noticed"),
    [("--unshare-net", "see network interfaces"), ("--unshare-pid", "process outside")],
)
def test_a_bwrap_that_leaves_a_namespace_out_is_caught(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dropped: str, noticed: str
) -> None:
    real = bubblewrap.find_bwrap()
    source = f"import os, sys\nos.execv({str(real)!r}, [word for word in sys.argv if word != {dropped!r}])\n"
    _with_bwrap(monkeypatch, _script(tmp_path / "bwrap", source))
    with pytest.raises(IsolationUnavailableError, match=noticed):
        levels.require("strict")


@pytest.mark.usefixtures("unprobed")
def test_a_bwrap_that_shows_the_host_is_caught(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = bubblewrap.find_bwrap()
    more = ["--bind", str(tmp_path.parent), str(tmp_path.parent), "--bind", "/tmp", "/tmp"]
    source = (
        "import os, sys\n"
        "words = sys.argv[:]\n"
        "end = words.index('--remount-ro', words.index('/dev/shm'))\n"
        "start = end - 3 * (words[end - 3] == '--symlink')\n"
        f"words[start:end] = {more!r}\n"
        f"os.execv({str(real)!r}, words)\n"
    )
    _with_bwrap(monkeypatch, _script(tmp_path / "bwrap", source))
    with pytest.raises(IsolationUnavailableError, match="the canary could read a file outside"):
        levels.require("strict")


@pytest.mark.usefixtures("unprobed")
def test_without_bwrap_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    _with_bwrap(monkeypatch, None)
    with pytest.raises(IsolationUnavailableError, match="install the package bubblewrap") as caught:
        run("print('ran')")
    assert caught.value.exit_status == 8


@pytest.mark.usefixtures("unprobed")
@pytest.mark.parametrize("what", ["filter", "landlock", "rlimits", "uid"])
def test_a_guard_that_fails_makes_the_level_unavailable(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    real = profile._guard
    broken = {
        "filter": b"\x00" * 8,  # not a program that ends in an answer
        "landlock": (("/no/such/folder", landlock.READ),),
        "rlimits": {10_000: 1},
        "uid": -5,
    }

    def guard(*args: object, **kwargs: object) -> dict[str, object]:
        both = {"observed_filter": broken[what]} if what == "filter" else {}
        return {**real(*args, **kwargs), what: broken[what], **both}  # type: ignore[arg-type]

    monkeypatch.setattr(profile, "_guard", guard)
    with pytest.raises(IsolationUnavailableError, match="the guard refused"):
        levels.require("strict")


@pytest.mark.usefixtures("unprobed")
def test_a_kernel_without_landlock_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "NEEDED_INSIDE_MOUNTS", landlock.abi() + 1)
    with pytest.raises(IsolationUnavailableError, match="Landlock version"):
        levels.require("strict")


@pytest.mark.usefixtures("unprobed")
def test_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    here = os.uname()
    elsewhere = os.uname_result((here[0], here[1], here[2], here[3], "riscv64"))
    monkeypatch.setattr(os, "uname", lambda: elsewhere)
    with pytest.raises(IsolationUnavailableError, match="riscv64"):
        levels.require("strict")


@pytest.mark.usefixtures("unprobed")
def test_a_canary_that_reports_nothing_has_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    silent = tmp_path / "canary.py"
    silent.write_text("print('all is well')")
    monkeypatch.setattr(probe, "_CANARY", silent)
    monkeypatch.setattr(interpreter, "SYSTEM_FILES", (*interpreter.SYSTEM_FILES, str(silent)))
    with pytest.raises(IsolationUnavailableError, match="canary did not report"):
        levels.require("strict")


@pytest.mark.usefixtures("unprobed")
def test_only_success_is_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with monkeypatch.context() as broken:
        _with_bwrap(broken, None)
        with pytest.raises(IsolationUnavailableError):
            levels.require("strict", cache=cache)
    assert not cache.exists()
    levels.require("strict", cache=cache)
    monkeypatch.setattr(probe, "_passed", set())
    monkeypatch.setattr(probe, "examine", lambda *_: pytest.fail("the canary ran again"))
    levels.require("strict", cache=cache)


@pytest.mark.usefixtures("unprobed")
@pytest.mark.parametrize("spoil", ["contents", "writable by others", "link"])
def test_a_doubtful_note_is_not_believed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, spoil: str) -> None:
    levels.require("strict", cache=tmp_path)
    note = tmp_path / "isolation-strict"
    assert stat.S_IMODE(note.stat().st_mode) == 0o600
    if spoil == "contents":
        note.write_text("passed")
    elif spoil == "writable by others":
        note.chmod(0o666)
    else:
        note.rename(tmp_path / "elsewhere")
        note.symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr(probe, "_passed", set())
    asked = []
    monkeypatch.setattr(
        probe, "examine", lambda level, _: asked.append(1) or probe.Report(level, (), observes=True)
    )
    levels.require("strict", cache=tmp_path)
    assert asked


# --- what a job finds inside -------------------------------------------------------------------


def test_a_job_runs_and_reports(run: Run) -> None:
    outcome = run("import sys; print('hello'); open('/out/result', 'w').write('1'); sys.exit(3)")
    assert (outcome.exit, outcome.killed, outcome.level) == (3, "", "strict")
    assert outcome.log_tail == "hello\n"
    assert outcome.compute.wall_s > 0
    assert outcome.compute.cpu_s > 0
    assert outcome.compute.measured_by in ("watchdog", "cgroup")
    assert {denial.what: denial.count for denial in outcome.denied}[notify.FILES] is None
    assert not outcome.ok


@pytest.mark.parametrize("level", ["strict", "none"])
def test_a_signal_becomes_a_status(run: Run, level: str) -> None:
    assert run("import os; os.kill(os.getpid(), 9)", level=level).exit == 128 + 9


def test_interlocks_packages_are_there_and_nothing_else_of_the_checkout(run: Run) -> None:
    outcome = run(
        "import guardrails.records, sandbox.worker, numpy, pathlib, sandbox\n"
        "root = pathlib.Path(sandbox.__file__).parents[1]\n"
        "print(sorted(p.name for p in root.iterdir() if p.name in ('.git', 'tests', 'ui', 'policies', 'sandbox')))"
    )
    assert outcome.ok, outcome.log_tail
    assert "'sandbox'" in outcome.log_tail
    # Only where the packages lie in a checkout of their own is there something to hide.
    if (Path(profile.__file__).parents[2] / "pyproject.toml").exists():
        assert outcome.log_tail.strip() == "['sandbox']"


def test_the_environment_is_the_profiles(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED_TOKEN", "secret")
    source = (
        "import json, os, glob\n"
        "seen = dict(os.environ)\n"
        "for path in glob.glob('/proc/[0-9]*/environ'):\n"
        "    try:\n        seen[path] = open(path).read()\n    except OSError:\n        pass\n"
        "print(json.dumps(seen))"
    )
    seen = json.loads(run(source, env={"OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "7"}).log_tail)
    assert "PLANTED_TOKEN" not in json.dumps(seen)
    assert seen["HOME"] == seen["TMPDIR"] == "/scratch"
    assert seen["HF_HUB_OFFLINE"] == seen["TRANSFORMERS_OFFLINE"] == "1"
    assert (seen["OMP_NUM_THREADS"], seen["PYTHONHASHSEED"]) == ("2", "7")
    bare = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert "PLANTED_TOKEN" in bare.stdout, "the control failed"


def test_root_runs_jobs_as_somebody_else(run: Run) -> None:
    outcome = run("import os; print(*os.getresuid(), *os.getresgid(), *os.getgroups())")
    ids = [int(part) for part in outcome.log_tail.split()]
    assert len(ids) >= 6
    assert 0 not in ids
    if os.geteuid() == 0:
        assert 60706 <= ids[0] < 61184
        assert set(ids) == {ids[0]}


def test_inputs_that_only_root_may_read_are_readable_to_the_job(run: Run, tmp_path: Path) -> None:
    private = tmp_path / "private"
    (private / "below").mkdir(parents=True)
    (private / "below" / "weights").write_text("42")
    (private / "below" / "weights").chmod(0o600)
    (private / "below").chmod(0o700)
    private.chmod(0o700)
    outcome = run("print(open('/in/data/below/weights').read())", inputs=(Mount(private, "/in/data"),))
    assert outcome.log_tail == "42\n"
    assert stat.S_IMODE(private.stat().st_mode) == 0o700


def test_scratch_is_empty_private_and_bounded(run: Run) -> None:
    outcome = run(
        "import os\nprint(os.listdir('/scratch'), os.getcwd(), os.environ['TMPDIR'])\n"
        "try:\n    open('/scratch/big', 'wb').write(bytes(40 << 20))\nexcept OSError as error:\n    print(error.errno)",
        scratch_bytes=16 * MIB,
    )
    assert outcome.log_tail == "[] /scratch /scratch\n28\n"


def test_the_log_shows_control_characters_instead_of_obeying(run: Run) -> None:
    outcome = run("print('a\\x1b]0;owned\\x07b\\rc\\x9bd')")
    assert outcome.log_tail == "a\\x1b]0;owned\\x07b\\x0dc\\x9bd\n"


def test_a_flood_of_output_is_capped(run: Run, tmp_path: Path) -> None:
    outcome = run("import os\nfor _ in range(400):\n    os.write(1, b'x' * (1 << 16))\nprint('end')")
    assert outcome.ok
    assert outcome.log_tail.endswith("end\n")
    log = next(tmp_path.rglob("log"))
    assert log.stat().st_size < 17 * MIB


def test_a_daemon_that_keeps_the_pipe_open_does_not_delay_the_end(run: Run) -> None:
    outcome = run("import os, time\nif os.fork() == 0:\n    time.sleep(60)\nprint('done')")
    assert outcome.exit == 0
    assert outcome.compute.wall_s < 20


def test_paths_in_a_request_are_real_where_there_are_no_mounts(run: Run, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.txt").write_text("content")
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"data": "/in/data", "out": "/out", "list": ["/in/data/a.txt", "/inside"]}))
    source = (
        "import json, os, sys\n"
        "request = json.load(open(os.environ['INTERLOCK_IN'] + '/request.json'))\n"
        "print(open(request['data'] + '/a.txt').read(), open(request['list'][0]).read(), request['list'][1])\n"
        "open(request['out'] + '/made', 'w').write('1')"
    )
    inputs = (Mount(data, "/in/data"), Mount(request, "/in/request.json"))
    for level in ("strict", "none"):
        outcome = run(source, level=level, inputs=inputs)
        assert outcome.log_tail == "content content /inside\n", level
    assert len(list(tmp_path.glob("run*/out/made"))) == 2


def test_torch_and_transformers_work_inside(run: Run) -> None:
    pytest.importorskip("torch")
    outcome = run(
        "import torch, transformers, safetensors.torch, peft, sandbox.worker\n"
        "model = torch.nn.Linear(8, 8)\n"
        "optimizer = torch.optim.AdamW(model.parameters())\n"
        "model(torch.randn(4, 8)).pow(2).mean().backward()\noptimizer.step()\n"
        "safetensors.torch.save_file(model.state_dict(), '/out/model.safetensors')\nprint('trained')"
    )
    assert outcome.ok, outcome.log_tail
    assert outcome.log_tail.endswith("trained\n")


# --- limits, and ending a job ----------------------------------------------------------------


def _no_process_left(started: float) -> bool:
    """Whether no process younger than ``started`` seconds ago still runs a test program."""
    deadline = time.monotonic() + started
    while time.monotonic() < deadline:
        found = [
            path
            for path in Path("/proc").glob("[0-9]*/cmdline")
            if b"/in/program.py" in _read(path) and b"pytest" not in _read(path)
        ]
        if not found:
            return True
        time.sleep(0.05)
    return False


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


_FOUR_THAT_FILL_MEMORY = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        block = bytearray(b"x") * (60 << 20)
        time.sleep(60)
time.sleep(60)
"""
_MANY_FILES = """
import os, time
os.chdir(os.environ["INTERLOCK_OUT"])
for i in range(60):
    open(str(i), "wb").write(bytes(range(256)) * 4096)
    time.sleep(0.02)
"""
BREAKERS = {
    "wall_s": ("import signal, time\nsignal.signal(15, signal.SIG_IGN)\ntime.sleep(60)", 1.0),
    # Each process stays below the limit; only their sum does not.
    "cpu_s": ("import os\nos.fork(); os.fork()\nend = 0\nwhile True: end += 1", 1.5),
    "memory_bytes": (_FOUR_THAT_FILL_MEMORY, 150 * MIB),
    "output_bytes": (_MANY_FILES, 8 * MIB),
}


@pytest.mark.parametrize("name", BREAKERS)
@pytest.mark.parametrize("level", ["strict", "none"])
def test_totals_over_all_processes_are_kept(run: Run, level: str, name: str) -> None:
    source, limit = BREAKERS[name]
    outcome = run(source, level=level, **{name: limit})
    assert outcome.killed.startswith(f"{name}: "), outcome
    assert outcome.exit is None
    assert _no_process_left(5)


@pytest.mark.parametrize("name", BREAKERS)
def test_the_same_programs_pass_with_room(run: Run, name: str) -> None:
    """The control: it is the limit that ends them, not something else."""
    source, _ = BREAKERS[name]
    outcome = run(source, should_stop=_after(1.5))
    assert outcome.killed in ("enough", ""), outcome


def _after(seconds: float) -> Callable[[], str]:
    end = time.monotonic() + seconds
    return lambda: "enough" if time.monotonic() > end else ""


def test_output_written_in_the_last_moment_counts(run: Run) -> None:
    source = "import os\nos.write(os.open('/out/big', 65), bytes(range(256)) * (4096 * 3))"
    assert run(source, output_bytes=MIB, scratch_bytes=16 * MIB).killed.startswith("output_bytes: ")


def test_too_many_and_too_deep_outputs_end_a_job(run: Run) -> None:
    many = "import os, time\nfor i in range(11000):\n    open(f'/out/{i}', 'w').close()\ntime.sleep(5)"
    assert "files" in run(many).killed
    deep = "import os, time\nos.makedirs('/out/' + '/'.join('d' * 40))\ntime.sleep(5)"
    assert "nested" in run(deep).killed


def test_processes_past_the_limit_cannot_be_started(run: Run) -> None:
    source = (
        "import os, time\ncount = 0\ntry:\n    for _ in range(100):\n        if os.fork() == 0:\n"
        "            time.sleep(60)\n        count += 1\nexcept OSError:\n    pass\nprint(count < 40)"
    )
    outcome = run(source, processes=30)
    assert outcome.log_tail == "True\n"
    assert run(source, processes=300).log_tail == "False\n", "the control failed"
    assert _no_process_left(5)


def test_a_single_large_allocation_fails_inside(run: Run) -> None:
    source = "try:\n    bytearray(400 << 20)\n    print('had it')\nexcept MemoryError:\n    print('refused')"
    assert run(source, memory_bytes=200 * MIB).log_tail == "refused\n"
    assert run(source, memory_bytes=2000 * MIB).log_tail == "had it\n"


def test_what_lies_in_scratch_is_memory(run: Run) -> None:
    # In small pieces, so that nothing but what lies in scratch can be over the limit.
    source = (
        "import time\nwith open('/scratch/big', 'wb', buffering=0) as big:\n"
        "    for _ in range(200): big.write(bytes(1 << 20))\ntime.sleep(5)"
    )
    assert run(source, memory_bytes=160 * MIB).killed.startswith("memory_bytes: ")
    assert run(source, memory_bytes=900 * MIB, wall_s=2).killed.startswith("wall_s: ")


def test_should_stop_ends_a_job_at_once_and_says_why(run: Run) -> None:
    started = time.monotonic()
    outcome = run("import time; time.sleep(60)", should_stop=_after(0.3))
    assert (outcome.exit, outcome.killed) == (None, "enough")
    assert time.monotonic() - started < 10
    assert _no_process_left(1)


@pytest.mark.usefixtures("unprobed")
def test_a_stop_is_heard_while_the_level_is_tried(run: Run) -> None:
    started = time.monotonic()
    outcome = run("print('ran')", should_stop=_after(0.05))
    assert time.monotonic() - started < 3
    assert (outcome.exit, outcome.killed, outcome.log_tail) == (None, "enough", "")
    assert not probe._passed, "nothing was found out"
    assert run("print('ran')").log_tail == "ran\n"


def test_a_stop_is_heard_while_the_namespaces_are_made(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    levels.require("strict")
    stuck = _script(tmp_path / "bwrap", "import time\ntime.sleep(60)")
    monkeypatch.setattr(probe, "_key", lambda _: next(iter(probe._passed)))
    _with_bwrap(monkeypatch, stuck)
    started = time.monotonic()
    outcome = run("print('ran')", should_stop=_after(0.3))
    assert time.monotonic() - started < 3  # of the 30 that a set-up may take
    assert (outcome.exit, outcome.killed, outcome.log_tail) == (None, "enough", "")
    assert not _named(str(stuck))


def test_a_stop_is_heard_while_the_guard_prepares(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    levels.require("strict")
    # It is promised more than it gets, and waits.
    longer = SimpleNamespace(pack=lambda form, size: struct.pack(form, size + 1))
    monkeypatch.setattr(startup, "struct", longer)
    started = time.monotonic()
    outcome = run("print('ran')", should_stop=_after(0.5))
    assert time.monotonic() - started < 3  # of the 30 that a set-up may take
    assert (outcome.exit, outcome.killed, outcome.log_tail) == (None, "enough", "")
    assert not _named(str(tmp_path)), "the mounts of this job are named on its command line"


def test_no_process_is_left_when_should_stop_raises(run: Run) -> None:
    def interrupted() -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("import time; time.sleep(60)", should_stop=interrupted)
    assert _no_process_left(1)


@pytest.mark.parametrize("level", ["strict", "landlock"])
def test_a_job_dies_with_the_process_that_supervises_it(level: str, tmp_path: Path) -> None:
    try:
        levels.require(level)
    except IsolationUnavailableError as error:
        pytest.skip(str(error))
    marker = f"marker-{os.getpid()}-{level}"
    program = tmp_path / "program.py"
    program.write_text(f"import time\nprint('begun', flush=True)\ntime.sleep(100)  # {marker}")
    source = (
        "from pathlib import Path\nfrom sandbox.isolation import levels\n"
        "from sandbox.isolation.spec import JobSpec, Mount\n"
        f"folder = Path({str(tmp_path)!r})\n"
        f"spec = JobSpec(('python', '/in/program.py', {marker!r}), (Mount(folder / 'program.py', '/in/program.py'),), "
        "folder / 'out', folder / 'log')\n"
        f"levels.run_job(spec, {level!r})"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", source])
    log = tmp_path / "log"
    deadline = time.monotonic() + 30
    while b"begun" not in (log.read_bytes() if log.exists() else b"") and time.monotonic() < deadline:
        time.sleep(0.02)
    supervisor.send_signal(signal.SIGKILL)
    supervisor.wait()
    deadline = time.monotonic() + 5
    while _named(marker) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _named(marker)


def _named(marker: str) -> list[str]:
    return [str(path) for path in Path("/proc").glob("[0-9]*/cmdline") if marker.encode() in _read(path)]


def test_folders_of_killed_programs_are_removed_and_no_others(tmp_path: Path) -> None:
    alive = folders.private_folder("mine-", tmp_path)
    assert stat.S_IMODE(alive.stat().st_mode) == 0o700
    dead = folders.private_folder("mine-", tmp_path)
    (dead / "owner").write_text(json.dumps({**folders.identity(os.getpid()), "started": "1"}))
    others = tmp_path / "mine-other"
    others.mkdir()
    (others / "owner").write_text("not JSON")
    folders.remove_abandoned("mine-", tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([alive, others])


# --- describing a job ------------------------------------------------------------------------


def test_a_program_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    spec = JobSpec(("/in/nothing",), (), tmp_path / "out", tmp_path / "log")
    with pytest.raises(JobFailedError, match="nothing"):
        levels.run_job(spec, "strict")
    unknown = JobSpec(("no-such-program-anywhere",), (), tmp_path / "out2", tmp_path / "log")
    with pytest.raises(UsageError, match="no-such-program"):
        levels.run_job(unknown, "strict")


def test_output_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model").write_text("from before")
    spec = JobSpec(("python", "-c", "0"), (), tmp_path / "out", tmp_path / "log")
    with pytest.raises(UsageError, match="not empty"):
        levels.run_job(spec, "strict")


def test_an_input_that_is_missing_is_named(tmp_path: Path) -> None:
    spec = JobSpec(("python",), (Mount(tmp_path / "gone", "/in/x"),), tmp_path / "out", tmp_path / "log")
    for level in ("strict", "none"):
        with pytest.raises(UsageError, match="gone does not exist"):
            levels.run_job(spec, level)


@pytest.mark.parametrize(
    "target", ["/out/x", "/", "/inside", "/in/../etc", "in/x", "/in/a b", "/in//x", "/in/.hidden"]
)
def test_mounts_go_below_in_only(target: str) -> None:
    with pytest.raises(UsageError, match="mount target"):
        Mount(Path("/x"), target)


def test_one_folder_can_be_all_of_in(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "program.py").write_text("import os; print(os.listdir(os.environ['INTERLOCK_IN']))")
    for level in ("strict", "none"):
        inputs = (Mount(tmp_path / "given", "/in"),)
        spec = JobSpec(("python", "/in/program.py"), inputs, tmp_path / f"out-{level}", tmp_path / "log")
        assert levels.run_job(spec, level).log_tail == "['program.py']\n"


def test_overlapping_mounts_are_refused(tmp_path: Path) -> None:
    inputs = (Mount(tmp_path, "/in/a"), Mount(tmp_path, "/in/a/b"))
    with pytest.raises(UsageError, match="overlap"):
        JobSpec(("python",), inputs, tmp_path / "o", tmp_path / "l")


@pytest.mark.parametrize("name", ["LD_PRELOAD", "PYTHONPATH", "PATH", "HOME", "INTERLOCK_OUT", "1x", "a=b"])
def test_loader_variables_are_not_a_recipes_to_set(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="environment variable"):
        JobSpec(("python",), (), tmp_path / "o", tmp_path / "l", Limits(), {name: "x"})


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_limits_are_finite(value: float) -> None:
    with pytest.raises(UsageError, match="wall_s"):
        Limits(wall_s=value)


def test_specs_and_outcomes_survive_json(run: Run, tmp_path: Path) -> None:
    inputs = (Mount(tmp_path, "/in/x"),)
    spec = JobSpec(("python", "-c", "0"), inputs, tmp_path / "o", tmp_path / "l", Limits(5), {"A": "b"})
    assert spec_from_json(json.loads(json.dumps(spec_to_json(spec)))) == spec
    outcome = run("print('x')")
    assert outcome_from_json(json.loads(json.dumps(outcome_to_json(outcome)))) == outcome


def test_the_walk_over_output_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "big").write_bytes(os.urandom(1 << 20))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path / "elsewhere")
    assert folder_bytes(tmp_path / "out")[0] < 1 << 20
    assert folder_bytes(tmp_path)[0] >= 1 << 20


def test_importing_the_runner_is_light() -> None:
    source = "import sys, sandbox.runner, sandbox.ray_runner; print([m for m in ('ray', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_installation_below_tmp_works_and_sees_nothing_else_of_tmp(tmp_path):
    """A fresh clone often lies below /tmp, where the job's own /tmp would hide it."""
    elsewhere = Path(tempfile.mkdtemp(prefix="interlock-venv-", dir="/tmp"))
    try:
        venv.create(elsewhere / "venv", with_pip=False, symlinks=True)
        packages = next((elsewhere / "venv" / "lib").glob("python3*/site-packages"))
        root = Path(__file__).parent.parent
        sites = [path for path in sys.path if path.endswith("site-packages")]
        (packages / "here.pth").write_text("\n".join([str(root), *sites]) + "\n", encoding="utf-8")
        program = (
            "import os, sys; from pathlib import Path; from sandbox.isolation import levels, spec;"
            'inside = \'import os; open("/tmp/x", "w").close(); print(sorted(os.listdir("/tmp")))\';'
            "out = Path(sys.argv[1]); job = spec.JobSpec(('python', '-c', inside),"
            " (), out / 'out', out / 'log.txt'); done = levels.run_job(job, 'strict');"
            "print(done.exit, done.log_tail)"
        )
        python = elsewhere / "venv" / "bin" / "python"
        done = subprocess.run([python, "-c", program, tmp_path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("0 "), done.stdout
        assert elsewhere.name in done.stdout
        assert "'x'" in done.stdout, "programs that insist on /tmp can write there"
        assert not Path("/tmp/x").exists()
        assert str(sorted(p.name for p in Path("/tmp").iterdir())) not in done.stdout
    finally:
        shutil.rmtree(elsewhere)
