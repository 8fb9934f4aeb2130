"""Ways round the totals: each program goes past a limit in a form that is hard to see, and is ended.

The control is the same program with room: it is the limit that ends it, not something else.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from sandbox.isolation import levels
from sandbox.isolation.spec import MIB, JobOutcome, JobSpec, Limits, Mount

_WAIT = "import time\ntime.sleep(20)\n"

# Name → (program, limit, its value, a value with room)
HIDDEN: dict[str, tuple[str, str, float, float]] = {
    "disk in files without a name": (
        "import os\nheld = []\nfor i in range(16):\n    f = os.open(f'/out/{i}', os.O_CREAT | os.O_RDWR)\n"
        "    os.unlink(f'/out/{i}')\n    os.write(f, bytes(range(256)) * 8192)\n    held.append(f)\n" + _WAIT,
        "output_bytes", 8 * MIB, 256 * MIB,
    ),
    "disk in files that never had a name": (
        "import os\nheld = []\nfor i in range(16):\n    f = os.open('/out', os.O_TMPFILE | os.O_RDWR)\n"
        "    os.write(f, bytes(range(256)) * 8192)\n    held.append(f)\n" + _WAIT,
        "output_bytes", 8 * MIB, 256 * MIB,
    ),
    "disk in a folder that cannot be listed": (
        "import os\nos.mkdir('/out/d')\nos.chmod('/out/d', 0o300)\n"
        "for i in range(16):\n    with open(f'/out/d/{i}', 'wb') as f: f.write(bytes(range(256)) * 8192)\n" + _WAIT,
        "output_bytes", 8 * MIB, 256 * MIB,
    ),
    "disk by reserving it": (
        "import os\nfor i in range(4):\n    os.posix_fallocate(os.open(f'/out/{i}', 65, 0o600), 0, 6 << 20)\n"
        + _WAIT,
        "output_bytes", 8 * MIB, 256 * MIB,
    ),
    "disk under changing names": (
        ("import os, time\nos.mkdir('/out/a')\n"
        "for i in range(16):\n    with open(f'/out/a/{i}', 'wb') as f: f.write(bytes(range(256)) * 8192)\n"
        "end = time.monotonic() + 3\nwhile time.monotonic() < end:\n"
        "    os.rename('/out/a', '/out/b')\n    os.rename('/out/b', '/out/a')\n"),
        "output_bytes", 8 * MIB, 256 * MIB,
    ),
    "memory that is shared": (
        "import mmap, os\nheld = []\nfor _ in range(6):\n    block = mmap.mmap(-1, 40 << 20)\n"
        "    block.write(b'x' * (40 << 20))\n    held.append(block)\n" + _WAIT,
        "memory_bytes", 150 * MIB, 2000 * MIB,
    ),
    "memory in files": (
        "import time\nfor i in range(6):\n    with open(f'/dev/shm/{i}', 'wb', buffering=0) as f:\n"
        "        for _ in range(40): f.write(bytes(1 << 20))\n" + _WAIT,
        "memory_bytes", 150 * MIB, 2000 * MIB,
    ),
    "memory of orphans": (
        "import os, time\nfor _ in range(4):\n    if os.fork() == 0:\n        os.setsid()\n"
        "        if os.fork() == 0:\n            block = bytearray(b'x') * (50 << 20)\n            time.sleep(30)\n"
        "        os._exit(0)\n" + _WAIT,
        "memory_bytes", 150 * MIB, 2000 * MIB,
    ),
    "processor time, passed on": (
        ("import os, time\nwhile True:\n    child = os.fork()\n    if child == 0:\n"
        "        end = time.process_time() + 0.2\n        while time.process_time() < end: pass\n"
        "        os._exit(0)\n    os.waitpid(child, 0)\n"),
        "cpu_s", 1.5, 60,
    ),
    "processor time of orphans": (
        "import os, time\nfor _ in range(60):\n    if os.fork() == 0:\n        if os.fork() == 0:\n"
        "            end = time.process_time() + 0.2\n            while time.process_time() < end: pass\n"
        "        os._exit(0)\n    os.wait()\n    time.sleep(0.1)\n" + _WAIT,
        "cpu_s", 1.5, 60,
    ),
    "time, by stopping oneself": (
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\n", "wall_s", 1, 1.5,
    ),
    "time, deaf to every signal": (
        "import signal\nfor s in set(signal.Signals) - {9, 19}: signal.signal(s, signal.SIG_IGN)\n" + _WAIT,
        "wall_s", 1, 1.5,
    ),
}  # fmt: skip


def _run(folder: Path, source: str, level: str = "strict", **limits: float) -> JobOutcome:
    folder.mkdir()
    (folder / "program.py").write_text(source)
    spec = JobSpec(
        ("python", "-I", "-S", "/in/program.py"), (Mount(folder / "program.py", "/in/program.py"),),
        folder / "out", folder / "log", Limits(**limits),
    )  # fmt: skip
    return levels.run_job(spec, level)


@pytest.mark.parametrize("name", HIDDEN)
def test_going_past_a_limit_unseen(name: str, tmp_path: Path) -> None:
    source, limit, value, room = HIDDEN[name]
    outcome = _run(tmp_path / "tight", source, **{"wall_s": 8.0, limit: value})
    assert outcome.killed.startswith(f"{limit}: "), outcome
    control = _run(tmp_path / "roomy", source, **{"wall_s": 1.5, limit: room})
    assert control.killed.startswith("wall_s: ") or control.ok, control


def test_threads_are_counted_as_processes(tmp_path: Path) -> None:
    source = (
        "import threading, time\ncount = 0\ntry:\n    for _ in range(100):\n"
        "        threading.Thread(target=time.sleep, args=(3,), daemon=True).start()\n        count += 1\n"
        "except RuntimeError:\n    pass\nprint(count < 40, flush=True)\n"
    )
    assert _run(tmp_path / "tight", source, processes=30).log_tail == "True\n"
    assert _run(tmp_path / "roomy", source, processes=300).log_tail == "False\n"


_AS_ORDINARY = """
import sys
from pathlib import Path
from sandbox.isolation import levels
from sandbox.isolation.spec import JobSpec, Limits
out = Path(sys.argv[1])
limits = Limits(wall_s=8, output_bytes=8 << 20)
outcome = levels.run_job(JobSpec(("python", "-c", sys.argv[2]), (), out / "out", out / "log", limits), "strict")
print(outcome.killed)
"""


def test_an_ordinary_users_job_cannot_hide_what_it_wrote(readable_python: Path | None) -> None:
    """Without root the supervisor has its job's rights and no more: what it may not look into ends the job."""
    if readable_python is None:
        pytest.skip("no Python of this version that an ordinary user can read")
    folder = Path(tempfile.mkdtemp(prefix="limits-", dir="/tmp"))
    folder.chmod(0o777)
    switch = {"user": 1234, "group": 1234, "extra_groups": ()} if os.geteuid() == 0 else {}
    try:
        done = subprocess.run(
            [readable_python, "-c", _AS_ORDINARY, folder, HIDDEN["disk in a folder that cannot be listed"][0]],
            capture_output=True, text=True, timeout=60, check=False, cwd="/", **switch,
            env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "TMPDIR": "/tmp"},
        )  # fmt: skip
    finally:
        shutil.rmtree(folder)
    assert "may not be looked into" in done.stdout, (done.stdout, done.stderr[-1000:])
