"""Whether an isolation level holds on this machine: by attacking it, not by looking for programs.

Invariants:
- The canary runs in the exact profile that jobs get, started by the same code.
- An attack counts as stopped only if the canary failed and the planted thing was not touched.
- A canary that does not report, or leaves an attack out, has failed.
- Only success is remembered, and only for this boot, these binaries, this code and this user.
"""

from __future__ import annotations

import contextlib
import json
import select
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from guardrails.errors import InterlockError, IsolationUnavailableError
from sandbox.isolation import bubblewrap, canary, gpu, job, notes, profile
from sandbox.isolation.notify import CALLS
from sandbox.isolation.spec import MIB, JobOutcome, JobSpec, Limits, Mount
from sandbox.isolation.startup import StopError

_CANARY = Path(canary.__file__)
_PROCESSES = 24
STOPPED, TOLERABLE, FAILED = "stopped", "tolerated", "failed"

# What a level does not promise to stop; everything else has to be stopped.
TOLERATED: dict[str, frozenset[str]] = {
    profile.STRICT: frozenset(),
    profile.STRICT_GPU: frozenset(),
    profile.LANDLOCK: frozenset({"see that a file outside exists", "see network interfaces"}),
}

_REMEDIES = {
    profile.STRICT: (
        "strict needs bubblewrap 0.8 or newer, Linux 5.13 or newer with Landlock, and, unless you are "
        "root, unprivileged user namespaces: install the package bubblewrap; check that "
        "/proc/sys/user/max_user_namespaces and kernel.unprivileged_userns_clone are not 0, and that "
        "AppArmor lets bwrap make user namespaces; in a container, allow nested namespaces"
    ),
    profile.LANDLOCK: (
        "landlock needs Linux 6.12 or newer with Landlock switched on (lsm=landlock,...), and an "
        "interpreter that an unprivileged user can read; or use strict, which needs bubblewrap"
    ),
}

_REMEDIES[profile.STRICT_GPU] = (
    f"{profile.STRICT_GPU} needs a GPU of NVIDIA whose nodes every user may open, and all that strict needs: "
    + _REMEDIES[profile.STRICT]
)

_passed: set[str] = set()


def _never() -> str:
    return ""


def require(level: str, cache: Path | None, should_stop: Callable[[], str] = _never) -> None:
    """Return if ``level`` passes its probe here, now or earlier in this boot.

    Raises:
        IsolationUnavailableError: it does not pass.
        StopError: asked to stop while it was tried, which says nothing about the level.
    """
    key = _key(level)
    note = f"isolation-{level}"
    if key in _passed or notes.read(cache, note) == key:
        _passed.add(key)
        return
    report = examine(level, should_stop)
    if not report.ok:
        raise IsolationUnavailableError(level, report.failures)
    _passed.add(key)
    notes.write(cache, note, key)


@dataclass(frozen=True)
class Probe:
    """One thing that was tried: ``outcome`` is ``stopped``, ``tolerated`` (the level does not promise to
    stop it) or ``failed``; then ``remedy`` says what to change.
    """

    name: str
    outcome: str
    remedy: str = ""


@dataclass(frozen=True)
class Report:
    """What became of each probe of a level here, and whether the calls that it refuses can be counted."""

    level: str
    probes: tuple[Probe, ...]
    observes: bool

    @property
    def ok(self) -> bool:
        """Whether the level holds."""
        return all(probe.outcome != FAILED for probe in self.probes)

    @property
    def failures(self) -> tuple[str, ...]:
        """One sentence for each failed probe, and the remedy; empty where the level holds."""
        failed = tuple(probe.name for probe in self.probes if probe.outcome == FAILED)
        return (*failed, f"remedy: {_REMEDIES[self.level]}") if failed else ()


def examine(level: str, should_stop: Callable[[], str] = _never) -> Report:
    """Try a level here, now, whatever is remembered of it."""
    try:
        outcome, results = _attacked(level, _PROCESSES, should_stop)
    except (InterlockError, OSError) as error:
        failures = error.failures if isinstance(error, IsolationUnavailableError) else (str(error),)
        return Report(level, tuple(Probe(text, FAILED, _REMEDIES[level]) for text in failures), False)
    probes = []
    for name in canary.ATTACKS:
        if results.get(name, "open").startswith("blocked"):
            probes.append(Probe(name, STOPPED))
        elif name in TOLERATED[level]:
            probes.append(Probe(name, TOLERABLE))
        else:
            probes.append(Probe(f"the canary could {name}", FAILED, _REMEDIES[level]))
    return Report(level, tuple(probes), all(denial.what != CALLS for denial in outcome.denied))


def failed_attacks(level: str) -> list[str]:
    """What the canary could do at a level that promises to stop it, one sentence each."""
    return [probe.name for probe in examine(level).probes if probe.outcome == FAILED]


def run_canary(level: str, *, processes: int = _PROCESSES) -> dict[str, str]:
    """Plant victims, run the canary at a level, and say for each attack whether it was stopped."""
    return _attacked(level, processes, _never)[1]


def _attacked(
    level: str, processes: int, should_stop: Callable[[], str]
) -> tuple[JobOutcome, dict[str, str]]:
    folder = Path(tempfile.mkdtemp(prefix="interlock-probe-"))
    folder.chmod(0o755)  # readable to other users, so that only the profile stands in the way
    try:
        with _victims(folder) as victims:
            request = folder / "request.json"
            request.write_text(json.dumps(victims.request()), encoding="utf-8")
            request.chmod(0o666)
            spec = JobSpec(
                argv=("python", "-I", "-S", str(_CANARY), "/in/request.json"),
                inputs=(Mount(request, "/in/request.json"),),
                out=folder / "out",
                log=folder / "log",
                limits=Limits(30, 30, 512 * MIB, processes, 16 * MIB, 16 * MIB),
                gpu=gpu.first() if level == profile.STRICT_GPU else None,
            )
            outcome = job.run(spec, level, should_stop)
            if outcome.killed and (reason := should_stop()):
                raise StopError(reason)
            report = folder / "out" / "report.json"
            if not outcome.ok or not report.is_file() or report.is_symlink():
                said = outcome.killed or outcome.log_tail.strip() or f"exit status {outcome.exit}"
                raise InterlockError(f"the canary did not report: {said}")
            results = {str(name): str(result) for name, result in json.loads(report.read_text()).items()}
            return outcome, {**results, **victims.touched()}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class _Victims:
    """Things outside the job that it must not reach."""

    folder: Path
    tcp: socket.socket
    udp: socket.socket
    unix: socket.socket
    abstract: socket.socket
    datagram: socket.socket
    process: subprocess.Popen[bytes]

    def request(self) -> dict[str, object]:
        """What the canary is told: it knows everything that an insider could know."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return {
            "secret": str(self.folder / "secret"),
            "outside": str(self.folder / "outside"),
            "input": "/in/request.json",
            "out": "/out",
            "report": "/out/report.json",
            "tcp": self.tcp.getsockname()[1],
            "udp": self.udp.getsockname()[1],
            "unix": self.unix.getsockname(),
            "abstract": self.abstract.getsockname()[1:].decode("ascii"),
            "datagram": self.datagram.getsockname(),
            "victim": self.process.pid,
            "victim_started": fields[19],
            "processes": _PROCESSES,
        }

    def touched(self) -> dict[str, str]:
        """Attacks whose effect is seen on this side, whatever the canary says."""
        effects = {
            "write outside": (self.folder / "outside").exists(),
            "connect by TCP": _pending(self.tcp),
            "send by UDP": _pending(self.udp),
            "connect to a socket file": _pending(self.unix),
            "connect to an abstract socket": _pending(self.abstract),
            "send a datagram to a socket file": _pending(self.datagram),
            "end a process outside": self.process.poll() is not None,
        }
        return {name: "open" for name, seen in effects.items() if seen}


@contextlib.contextmanager
def _victims(folder: Path) -> Iterator[_Victims]:
    (folder / "secret").write_text("planted", encoding="utf-8")
    (folder / "secret").chmod(0o644)
    with contextlib.ExitStack() as stack:
        tcp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        unix.bind(str(folder / "stream"))
        unix.listen()
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        abstract.bind(f"\0interlock-{folder.name}")
        abstract.listen()
        datagram = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        datagram.bind(str(folder / "datagram"))
        for name in ("stream", "datagram"):
            (folder / name).chmod(0o777)
        process = subprocess.Popen(["sleep", "120"], env={"PATH": "/usr/bin:/bin", "PLANTED": "yes"})
        try:
            yield _Victims(folder, tcp, udp, unix, abstract, datagram, process)
        finally:
            process.kill()
            process.wait()


def _pending(listener: socket.socket) -> bool:
    watched = select.poll()
    watched.register(listener, select.POLLIN)
    return bool(watched.poll(0))


def _key(level: str) -> str:
    """Everything that the answer depends on; another boot, binary, code or user asks again."""
    bwrap = bubblewrap.find_bwrap()
    files = sorted(Path(__file__).parent.glob("*.py"))
    return notes.key([level], [*files, bwrap] if bwrap else files)
