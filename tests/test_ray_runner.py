"""Running jobs under Ray tasks: one real Ray for the whole module."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from guardrails.errors import JobFailedError, UsageError
from sandbox import supervisor
from sandbox.isolation.spec import Denial, JobOutcome, JobSpec, Limits, Mount
from sandbox.listeners import listeners
from sandbox.ray_runner import RayRunner
from sandbox.runner import JobHandle, wait

pytestmark = pytest.mark.ray
pytest.importorskip("ray")


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def runner(said: list[str]) -> Iterator[RayRunner]:
    made = RayRunner(num_cpus=2, announce=said.append)
    yield made
    made.shutdown()


def job(folder: Path, source: str, name: str = "job", **limits: float) -> JobSpec:
    program = folder / f"{name}.py"
    program.write_text(source)
    return JobSpec(
        ("python", "/in/program.py", f"marker-{folder.name}-{name}"),
        (Mount(program, "/in/program.py"),),
        folder / f"{name}.out",
        folder / f"{name}.log",
        Limits(**{"wall_s": 60, **limits}),
    )


def until_it_prints(handle: JobHandle) -> None:
    deadline = time.monotonic() + 60
    while not handle.lines():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(marker: str) -> list[int]:
    """Processes that carry a job's marker in their arguments, zombies left out."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if marker.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


def gone_within(marker: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while alive(marker):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_a_job_runs_under_ray(runner: RayRunner, said: list[str], tmp_path: Path) -> None:
    handle = runner.start(job(tmp_path, "print('hello'); open('/out/made', 'w').write('1')"), "strict")
    outcome = wait(handle, 60)
    assert (outcome.exit, outcome.killed, outcome.level) == (0, "", "strict")
    assert outcome.compute.measured_by in ("watchdog", "cgroup")
    assert handle.lines() == ["hello"]
    assert (tmp_path / "job.out" / "made").exists()
    assert said[0].startswith("starting Ray")
    assert said[1].startswith("Ray is ready")


def test_refused_calls_are_heard_of_under_ray_too(runner: RayRunner, tmp_path: Path) -> None:
    source = "import socket\nfor _ in range(3):\n    try: socket.socket()\n    except OSError: pass"
    outcome = wait(runner.start(job(tmp_path, source), "strict"), 60)
    assert Denial("socket", 3, "EPERM") in outcome.denied


def test_a_program_that_is_not_there_is_a_failed_job(runner: RayRunner, tmp_path: Path) -> None:
    spec = JobSpec(("/no/such/program",), (), tmp_path / "out", tmp_path / "log")
    with pytest.raises(JobFailedError, match="/no/such/program"):
        wait(runner.start(spec, "strict"), 60)


def test_limits_and_errors_cross_ray_as_text(runner: RayRunner, tmp_path: Path) -> None:
    slow = runner.start(job(tmp_path, "import time; time.sleep(60)", wall_s=0.5), "strict")
    assert wait(slow, 60).killed.startswith("wall_s: ")
    missing = JobSpec(("python",), (Mount(tmp_path / "gone", "/in/x"),), tmp_path / "o", tmp_path / "l")
    with pytest.raises(UsageError, match="gone does not exist"):
        wait(runner.start(missing, "strict"), 60)


# Many processes that come back as long as one is left, want no signal and no common session.
RESTLESS = """
import os, signal, time
for number in (1, 2, 15):
    signal.signal(number, signal.SIG_IGN)
print('begun', flush=True)
while True:
    try:
        if os.fork() == 0:
            os.setsid()
    except OSError:
        pass
    time.sleep(0.02)
"""


@pytest.mark.parametrize("how", ["cancel", "timeout", "dead worker"])
def test_a_restless_job_is_gone_within_a_second(runner: RayRunner, tmp_path: Path, how: str) -> None:
    spec = job(tmp_path, RESTLESS, processes=60, wall_s=3 if how == "timeout" else 60)
    handle = runner.start(spec, "strict")
    until_it_prints(handle)
    time.sleep(0.5)
    assert len(alive(spec.argv[2])) > 20
    if how == "cancel":
        handle.cancel("halt")
        handle.cancel("later")
    elif how == "timeout":
        time.sleep(2.5)
    else:
        os.kill(_supervisor(spec.argv[2]), signal.SIGKILL)
    assert gone_within(spec.argv[2], 1)
    reason = {"cancel": "halt", "timeout": "wall_s: ", "dead worker": "its supervisor died"}[how]
    assert wait(handle, 10).killed.startswith(reason)
    time.sleep(0.5)
    assert not alive(spec.argv[2])


def test_a_job_that_is_still_being_set_up_is_cancelled(runner: RayRunner, tmp_path: Path) -> None:
    """Whatever it is doing at that moment: the moments lie close together, over all of the set-up."""
    for step in range(6):
        handle = runner.start(job(tmp_path, "import time; time.sleep(60)", f"step{step}"), "strict")
        time.sleep(step * 0.01)
        asked = time.monotonic()
        handle.cancel("enough")
        assert wait(handle, 5).killed == "enough"
        assert time.monotonic() - asked < 1
        assert gone_within(f"marker-{tmp_path.name}-step{step}", 1)


def test_a_waiting_job_is_cancelled_before_it_begins(runner: RayRunner, tmp_path: Path) -> None:
    first = [
        runner.start(job(tmp_path, "print('x'); import time; time.sleep(60)", f"f{i}"), "strict")
        for i in range(2)
    ]
    for handle in first:
        until_it_prints(handle)
    waiting = runner.start(job(tmp_path, "open('/out/ran', 'w')", "waiting"), "strict")
    waiting.cancel("not needed")
    outcome = wait(waiting, 5)
    assert outcome.killed == "not needed"
    assert outcome.compute.measured_by == "unmeasured"
    for handle in first:
        handle.cancel("enough")
    assert [wait(handle, 10).killed for handle in first] == ["enough", "enough"]
    again = runner.start(job(tmp_path, "print('y')", "after"), "strict")
    assert wait(again, 60).ok
    assert not (tmp_path / "waiting.out" / "ran").exists()


def test_a_dead_supervisor_takes_the_job_with_it_and_nothing_is_repeated(
    runner: RayRunner, tmp_path: Path
) -> None:
    source = "import os, time\nprint('begun', flush=True)\nopen(f'/out/{time.time()}', 'w')\ntime.sleep(60)"
    spec = job(tmp_path, source)
    handle = runner.start(spec, "strict")
    until_it_prints(handle)
    os.kill(_supervisor(spec.argv[2]), signal.SIGKILL)
    assert gone_within(spec.argv[2], 1)
    outcome = wait(handle, 30)
    assert outcome.exit is None
    assert outcome.killed.startswith("its supervisor died")
    assert {denial.count for denial in outcome.denied} == {None}, "nobody saw what it was refused"
    time.sleep(2)
    assert not alive(spec.argv[2])
    assert len(list((tmp_path / "job.out").iterdir())) == 1


def test_a_request_that_was_taken_up_is_not_taken_up_again(tmp_path: Path) -> None:
    """Whoever might repeat a task, Ray or somebody else: the second supervisor refuses."""
    control = tmp_path / "control"
    spec = JobSpec(("python", "-c", "print('ran')"), (), tmp_path / "out", tmp_path / "log")
    supervisor.ask(control, spec, "strict", None)
    first = supervisor.decode(supervisor.supervise(control))
    assert isinstance(first, JobOutcome)
    assert first.ok
    shutil.rmtree(tmp_path / "out")
    again = supervisor.decode(supervisor.supervise(control))
    assert isinstance(again, JobFailedError)
    assert not (tmp_path / "out").exists()


def test_a_supervisor_is_small(runner: RayRunner, tmp_path: Path) -> None:
    """Also one that has supervised before, when it has become as large as it will."""
    for name in ("first", "second"):
        spec = job(tmp_path, "import time; print('x', flush=True); time.sleep(2)", name)
        handle = runner.start(spec, "strict")
        until_it_prints(handle)
        rollup = Path(f"/proc/{_supervisor(spec.argv[2])}/smaps_rollup").read_text()
        proportional = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        assert proportional * 1024 <= 60e6
        assert wait(handle, 30).ok


def _outside_addresses() -> list[str]:
    """This machine's addresses as others would use them."""
    shown = subprocess.run(
        ["ip", "-json", "-4", "address"], capture_output=True, text=True, check=True
    ).stdout
    found = [entry["local"] for link in json.loads(shown) for entry in link["addr_info"]]
    return [address for address in found if not address.startswith("127.")]


def _answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(shutil.which("ip") is None, reason="needs the program ip")
def test_no_port_of_ray_can_be_reached_from_outside(runner: RayRunner, tmp_path: Path) -> None:
    wait(runner.start(job(tmp_path, "0", "warm"), "strict"), 60)
    found = [entry for entry in listeners(os.getpid()) if entry.program.startswith(("gcs", "ray"))]
    assert {entry.program for entry in found} >= {"gcs_server", "raylet"}
    assert all(entry.only_here for entry in found)
    assert all(_answers("127.0.0.1", entry.port) for entry in found)
    reached = [
        (address, e.port) for address in _outside_addresses() for e in found if _answers(address, e.port)
    ]
    assert reached == []


@pytest.mark.skipif(shutil.which("ip") is None, reason="needs the program ip")
def test_a_ray_that_listens_for_others_is_refused(tmp_path: Path) -> None:
    """The control: without the setting the ports are open, and that is noticed."""
    source = (
        "import json, os\nfrom pathlib import Path\nfrom sandbox import ray_runner\n"
        "from sandbox.isolation.spec import JobSpec\nfrom sandbox.listeners import listeners\n"
        "ray_runner._LOOPBACK_ONLY = ('UNUSED', '0')\nray_runner._forget_earlier_settings = lambda: None\n"
        "check = ray_runner._refuse_open_ports\n"
        "def look(before):\n"
        "    print(json.dumps([e.port for e in listeners(os.getpid()) if not e.only_here]), flush=True)\n"
        "    input()\n    check(before)\n"
        "ray_runner._refuse_open_ports = look\n"
        f"spec = JobSpec(('python', '-c', '0'), (), Path({str(tmp_path / 'out')!r}), Path({str(tmp_path / 'log')!r}))\n"
        "ray_runner.RayRunner().start(spec, 'strict')\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    driver = subprocess.Popen(
        [sys.executable, "-c", source],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True,
    )  # fmt: skip
    assert driver.stdout is not None
    ports = json.loads(driver.stdout.readline())
    addresses = _outside_addresses()
    reached = [port for address in addresses for port in ports if _answers(address, port)]
    assert reached or not addresses
    _, said = driver.communicate("\n", timeout=60)
    assert "Ray listens for other machines: " in said
    assert driver.returncode != 0
    assert not (tmp_path / "log").exists()


def _supervisor(marker: str) -> int:
    """The Ray worker above a job's first process."""
    pid = min(alive(marker))
    while True:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        if name.startswith("ray::"):
            return pid
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        assert pid > 1, "no Ray worker above the job"


def test_what_a_job_makes_is_never_unpickled(runner: RayRunner, tmp_path: Path) -> None:
    source = (
        "import pickle, os\nclass Evil:\n    def __reduce__(self):\n        return (os.system, ('touch /tmp/owned',))\n"
        "data = pickle.dumps(Evil())\nos.write(1, data + b'\\n')\n"
        "for name in ('result.pkl', 'outcome', 'proposal.json'):\n    open('/out/' + name, 'wb').write(data)"
    )
    owned = Path("/tmp/owned")
    assert not owned.exists()
    assert wait(runner.start(job(tmp_path, source), "strict"), 60).ok
    assert not owned.exists()


def test_rays_files_are_closed_to_others_and_absent_inside(runner: RayRunner, tmp_path: Path) -> None:
    wait(runner.start(job(tmp_path, "0", "warm"), "strict"), 60)
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    source = f"import os\nprint(os.path.exists({str(token)!r}), [k for k in os.environ if 'RAY' in k])"
    handle = runner.start(job(tmp_path, source), "strict")
    wait(handle, 60)
    assert handle.lines() == ["False []"]
    assert token.exists(), "the control failed"


def test_a_dead_driver_leaves_no_job(tmp_path: Path) -> None:
    spec = job(tmp_path, RESTLESS)
    source = (
        "import sys, time\nfrom pathlib import Path\nfrom sandbox.isolation.spec import JobSpec, Mount\n"
        "from sandbox.ray_runner import RayRunner\n"
        f"folder = Path({str(tmp_path)!r})\n"
        f"spec = JobSpec({spec.argv!r}, (Mount(folder / 'job.py', '/in/program.py'),), folder / 'out', folder / 'log')\n"
        "handle = RayRunner().start(spec, 'strict')\n"
        "while not handle.lines(): time.sleep(0.02)\nprint('begun', flush=True)\ntime.sleep(100)\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    driver = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, env=environment)
    assert driver.stdout is not None
    assert driver.stdout.readline() == b"begun\n"
    assert alive(spec.argv[2])
    driver.kill()
    driver.wait()
    assert gone_within(spec.argv[2], 5)


def test_after_shutdown_the_runner_starts_again(tmp_path: Path, runner: RayRunner) -> None:
    handle = runner.start(job(tmp_path, "import time; print('x'); time.sleep(60)"), "strict")
    until_it_prints(handle)
    runner.shutdown()
    outcome = handle.poll()
    assert outcome is not None
    assert outcome.killed == "the runner shuts down"
    assert wait(runner.start(job(tmp_path, "0", "again"), "strict"), 90).ok


TERMINATED = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_ray_runner import job
from sandbox.ray_runner import RayRunner

class Ended(BaseException):
    pass

def end(number, frame):
    raise Ended

signal.signal(signal.SIGTERM, end)
runner = RayRunner(num_cpus=2, announce=lambda text: print(text, flush=True))
try:
    handle = runner.start(job(Path({folder!r}), "print('x', flush=True)\\nimport time\\ntime.sleep(60)"), "none")
    while not handle.lines():
        time.sleep(0.02)
    print("job runs", flush=True)
    time.sleep(60)
except Ended:
    print("ended as it should", flush=True)
    runner.shutdown()
try:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
except Ended:
    print("heard after Ray's end", flush=True)
    sys.exit(143)
"""


_CONNECTING = [pytest.param("starting Ray", wait_s, marks=pytest.mark.slow) for wait_s in (1.0, 2.2, 2.4)]


@pytest.mark.parametrize(("moment", "wait_s"), [*_CONNECTING, ("job runs", 0.0)])
def test_sigterm_stays_with_whoever_had_it(tmp_path: Path, moment: str, wait_s: float):
    """Ray takes it for itself, prints a stack trace and exits 15 or aborts: as it starts, and while jobs run.

    And at its end it leaves the signal without any handler.
    """
    script = TERMINATED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while moment not in (line := process.stdout.readline()):
        assert line, process.communicate()
    time.sleep(wait_s)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (143, ""), out
    assert "ended as it should" in out
    assert "heard after Ray's end" in out
    assert gone_within(f"marker-{tmp_path.name}-job", 20)
