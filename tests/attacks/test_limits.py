"""Ways round the totals: each program goes past a limit in a form that is hard to see, and is ended.

The control is the same program with room: it is the limit that ends it, not something else.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
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
    "memory in the buffers of sockets": (
        "import os, socket\nfor _ in range(8):\n    if os.fork() == 0:\n        held = []\n"
        "        for _ in range(200):\n            pair = socket.socketpair()\n            held.append(pair)\n"
        "            for end in pair:\n                end.setblocking(False)\n"
        "                try:\n                    while True: end.send(bytes(32768))\n"
        "                except BlockingIOError: pass\n        import time; time.sleep(30)\n" + _WAIT,
        "memory_bytes", 150 * MIB, 8000 * MIB,
    ),
    "memory of empty files": (
        "import os\nfor i in range(60000): os.close(os.open(f'/scratch/{i:0200}', os.O_CREAT | os.O_WRONLY))\n"
        + _WAIT,
        "memory_bytes", 60 * MIB, 2000 * MIB,
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


_MANY_MAPPINGS = (
    "import ctypes, os, time\nlibc = ctypes.CDLL(None)\nlibc.mmap.restype = ctypes.c_void_p\n"
    "def protect(at): return libc.mprotect(ctypes.c_void_p(at), ctypes.c_size_t(4096), 1)\n"
    "start = libc.mmap(None, ctypes.c_size_t(60000 * 4096), 0, 0x22, -1, ctypes.c_long(0))\n"
    "for page in range(0, 60000, 2): protect(start + page * 4096)\n"
    "for _ in range({}):\n    if os.fork() == 0: time.sleep(30)\nprint('made', flush=True)\n" + _WAIT
)


def test_a_job_cannot_keep_its_supervisor_busy_with_looking(tmp_path: Path) -> None:
    """Reading that many mappings would take many seconds, in which no other limit was looked at."""
    outcome = _run(tmp_path / "many", _MANY_MAPPINGS.format(100), wall_s=15)
    assert "too many to be measured" in outcome.killed, outcome
    control = _run(tmp_path / "few", _MANY_MAPPINGS.format(1), wall_s=2)
    assert control.killed.startswith("wall_s: "), control
    assert control.log_tail == "made\n"


def test_printing_byte_by_byte_does_not_keep_the_supervisor_busy(tmp_path: Path) -> None:
    source = "import os, time\nend = time.monotonic() + 2\nwhile time.monotonic() < end: os.write(1, b'.')\n"
    before = time.thread_time()
    assert _run(tmp_path / "dots", source).ok
    assert time.thread_time() - before < 1.0


_AS_ORDINARY = """
import json
import sys
from pathlib import Path
from sandbox.isolation import levels
from sandbox.isolation.spec import JobSpec, Limits
out = Path(sys.argv[1])
limits = Limits(**{"wall_s": 8, **json.loads(sys.argv[3])})
outcome = levels.run_job(JobSpec(("python", "-c", sys.argv[2]), (), out / "out", out / "log", limits), sys.argv[4])
print(outcome.killed)
"""

_MANY_IN_SCRATCH = (
    "import os\nat = os.environ['INTERLOCK_SCRATCH']\n"
    "for i in range(10500): os.close(os.open(f'{at}/{i}', os.O_CREAT | os.O_WRONLY))\n" + _WAIT
)
_SEALED_SCRATCH = (
    "import os\nat = os.environ['INTERLOCK_SCRATCH'] + '/d'\nos.mkdir(at, 0o300)\n"
    "open(at + '/x', 'wb').write(bytes(range(256)) * 65536)\n" + _WAIT
)


def _hidden(name: str) -> tuple[str, dict[str, float]]:
    source, limit, value, _ = HIDDEN[name]
    return source, {limit: value}


@pytest.mark.parametrize(
    ("program", "level", "said"),
    [
        (_hidden("disk in a folder that cannot be listed"), "strict", "may not be looked into"),
        (_hidden("memory in the buffers of sockets"), "strict", "memory_bytes: "),
        (_hidden("memory of empty files"), "strict", "memory_bytes: "),
        ((_MANY_IN_SCRATCH, {}), "landlock", "scratch_bytes: more than 10000 files"),
        ((_SEALED_SCRATCH, {}), "landlock", "scratch_bytes: the folder 'd' may not be looked into"),
    ],
    ids=["disk", "sockets", "empty files", "files in scratch", "sealed scratch"],
)
def test_an_ordinary_users_job_cannot_hide_what_it_uses(
    readable_python: Path | None, program: tuple[str, dict[str, float]], level: str, said: str
) -> None:
    """Without root nothing is counted by the kernel, and the supervisor has its job's rights and no more."""
    if readable_python is None:
        pytest.skip("no Python of this version that an ordinary user can read")
    folder = Path(tempfile.mkdtemp(prefix="limits-", dir="/tmp"))
    folder.chmod(0o777)
    switch = {"user": 1234, "group": 1234, "extra_groups": ()} if os.geteuid() == 0 else {}
    try:
        done = subprocess.run(
            [readable_python, "-c", _AS_ORDINARY, folder, program[0], json.dumps(program[1]), level],
            capture_output=True, text=True, timeout=60, check=False, cwd="/", **switch,
            env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "TMPDIR": "/tmp"},
        )  # fmt: skip
    finally:
        shutil.rmtree(folder)
    if level == "landlock" and "IsolationUnavailableError" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert said in done.stdout, (done.stdout, done.stderr[-1000:])
