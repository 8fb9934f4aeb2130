"""What isolation costs: starting, training, and the supervisor's memory; in pairs, alternating, in one run.

Prints figures and asserts nothing about time. Run with ``pytest -m benchmark -s``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest

from sandbox.isolation import levels
from sandbox.isolation.spec import JobSpec, Limits, Mount

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
TINY = ROOT / "sandbox" / "models" / "tiny"
_ENV = {
    "PATH": "/usr/bin:/bin",
    "OMP_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "HF_HUB_OFFLINE": "1",
}

_TRAINING = """
import json, os, sys, time
import torch
from transformers import AutoModelForCausalLM
torch.set_num_threads(1)
torch.manual_seed(0)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], local_files_only=True).train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
batch = torch.randint(0, model.config.vocab_size, (8, 128))

def step():
    loss = model(input_ids=batch, labels=batch).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()

for _ in range(5):
    step()
started, steps = time.monotonic(), 0
busy = time.process_time()
while time.monotonic() - started < float(sys.argv[2]):
    step()
    steps += 1
print(json.dumps({"wall": steps / (time.monotonic() - started), "cpu": steps / (time.process_time() - busy)}))
"""


class Jobs:
    """Runs one command inside and outside, each time in a fresh folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def inside(self, argv: tuple[str, ...], inputs: tuple[Mount, ...] = ()) -> str:
        """Run at ``strict``; what it printed."""
        self._count += 1
        own = self._folder / str(self._count)
        spec = JobSpec(argv, inputs, own / "out", own / "log", Limits(wall_s=300))
        outcome = levels.run_job(spec, "strict")
        assert outcome.ok, outcome
        return outcome.log_tail

    def outside(self, argv: tuple[str, ...]) -> str:
        """Run as it is; what it printed."""
        command = [sys.executable if argv[0] == "python" else argv[0], *argv[1:]]
        return subprocess.run(command, env=_ENV, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    """The probe is passed before anything is timed: it runs once a boot."""
    levels.require("strict")
    return Jobs(tmp_path)


def _timed(action: Callable[[], object]) -> float:
    started = time.monotonic()
    action()
    return (time.monotonic() - started) * 1000


def _load() -> str:
    return f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def test_starting(jobs: Jobs) -> None:
    """The same interpreter doing nothing, bare and inside."""
    argv = ("python", "-I", "-S", "-c", "pass")
    inside, bare = [], []
    for _ in range(40):
        bare.append(_timed(lambda: jobs.outside(argv)))
        inside.append(_timed(lambda: jobs.inside(argv)))
    over = [a - b for a, b in zip(inside, bare, strict=True)]
    print(f"\nstart-up, 40 pairs, {_load()}")
    print(f"  bare    least {min(bare):6.1f} ms   median {median(bare):6.1f} ms")
    print(f"  strict  least {min(inside):6.1f} ms   median {median(inside):6.1f} ms")
    print(
        f"  over    least to least {min(inside) - min(bare):6.1f} ms   median of pairs {median(over):6.1f} ms"
    )


def test_training(jobs: Jobs, tmp_path: Path) -> None:
    """Steps of AdamW on the model ``tiny``, as many as fit into a few seconds, started without waiting."""
    program = tmp_path / "train.py"
    program.write_text(_TRAINING)
    inputs = (Mount(program, "/in/train.py"), Mount(TINY, "/in/tiny"))
    rates: dict[str, list[dict[str, float]]] = {"inside": [], "outside": []}
    for turn in range(5):
        for side in ("inside", "outside") if turn % 2 else ("outside", "inside"):
            if side == "inside":
                said = jobs.inside(("python", "/in/train.py", "/in/tiny", "3"), inputs)
            else:
                said = jobs.outside(("python", str(program), str(TINY), "3"))
            rates[side].append(json.loads(said.strip().splitlines()[-1]))
    print(f"\ntraining, 5 pairs of 3 s, {_load()}")
    for clock in ("wall", "cpu"):
        pairs = [a[clock] / b[clock] for a, b in zip(rates["inside"], rates["outside"], strict=True)]
        best = {side: max(rate[clock] for rate in found) for side, found in rates.items()}
        print(
            f"  steps per second of {clock:4} time: inside / outside, median of pairs {median(pairs):.3f}, "
            f"best to best {best['inside'] / best['outside']:.3f} ({best['inside']:.1f} / {best['outside']:.1f})"
        )


_SUPERVISOR = """
import sys, threading, time
from pathlib import Path

def proportional():
    for line in open("/proc/self/smaps_rollup"):
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024

from sandbox.isolation import levels
from sandbox.isolation.spec import JobSpec
folder = Path(sys.argv[1])
levels.require("strict")
idle, seen = proportional(), []
def one(i):
    own = folder / str(i)
    levels.run_job(JobSpec(("python", "-c", "import time; time.sleep(2)"), (), own / "out", own / "log"), "strict")
for count in (1, 4):
    threads = [threading.Thread(target=one, args=(f"{count}-{i}",)) for i in range(count)]
    for thread in threads: thread.start()
    time.sleep(1.2)
    seen.append(proportional())
    for thread in threads: thread.join()
print(f"{idle:.1f} {seen[0]:.1f} {seen[1]:.1f}")
"""


def test_memory_of_the_supervisor(tmp_path: Path) -> None:
    """A process that does nothing but supervise: alone, with one job, with four."""
    done = subprocess.run(
        [sys.executable, "-c", _SUPERVISOR, tmp_path], check=True, capture_output=True, text=True
    )
    idle, one, four = map(float, done.stdout.split())
    print("\nsupervisor, proportional set size")
    print(f"  before a job {idle:.1f} MiB, with one job {one:.1f} MiB, with four {four:.1f} MiB")
    print(f"  each further job {(four - one) / 3:.1f} MiB")
