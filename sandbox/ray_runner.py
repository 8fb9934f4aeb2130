"""Jobs supervised by Ray tasks. The only module that imports ray, and only when a job is started.

    driver ──spec, as JSON text──> Ray task (supervisor) ──> isolated process
           <─outcome, as JSON text─

Invariants:
- The supervisor, not the job, is Ray's; a job sees neither Ray's sockets nor its files nor a network.
- A Ray that was started here listens on loopback only, behind a token; this is looked at, not believed.
- A task runs once: no retry repeats a job whose supervisor crashed.
- Nothing that a job made is unpickled: only the supervisor's own JSON text crosses Ray.
- The job dies with its supervisor, and a supervisor ends its job when the driver is gone.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import logging
import os
import secrets
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from guardrails.errors import InterlockError, JobFailedError
from guardrails.records import Compute
from sandbox import supervisor
from sandbox.isolation.folders import private_folder
from sandbox.isolation.notify import UNSEEN
from sandbox.isolation.spec import JobOutcome, JobSpec
from sandbox.listeners import Listener, listeners
from sandbox.runner import JobHandle, LogLines

_OBJECT_STORE_BYTES = 80 << 20
_FORCE_AFTER_S = 1.0
_FOLDER_PREFIX = "ilk-"
_SHUTDOWN_S = 5.0

# Read by Ray at its start, here and in its workers. Its memory watcher would kill supervisors for
# what others use; a job's memory is limited by its own profile.
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# The one setting that makes every Ray process take the loopback address for its own, and listen there:
# "no clusters" (its name tells where this is the default). ``_node_ip_address`` does not do it: Ray
# replaces a loopback address by one that others can reach.
_LOOPBACK_ONLY = ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

# void ray::RayLog::InstallFailureSignalHandler(const char *argv0, bool call_previous_handler) and
# void ray::RayLog::UninstallSignalAction()
_TAKE_SIGNALS = "_ZN3ray6RayLog27InstallFailureSignalHandlerEPKcb"
_GIVE_SIGNALS_BACK = "_ZN3ray6RayLog21UninstallSignalActionEv"

_OWN = ("gcs_server", "ray")  # how the names of Ray's processes begin

# What Ray imports into a worker only to be able to pass such values on. Supervisors pass text.
_NOT_FOR_SUPERVISORS = ("pyarrow", "pydantic", "starlette")


class RayRunner:
    """Starts each job under a Ray task. Ray itself starts with the first job, which takes seconds."""

    def __init__(
        self,
        *,
        num_cpus: int | None = None,
        cache: Path | None = None,
        announce: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._num_cpus = num_cpus or max(2, os.cpu_count() or 1)
        self._cache = cache
        self._announce = announce
        self._lock = threading.Lock()
        self._task: Any = None
        self._folder: Path | None = None
        self._owns_ray = False
        self._handles: list[_RayHandle] = []
        atexit.register(self.shutdown)

    def start(self, spec: JobSpec, level: str) -> JobHandle:
        """Start a job at an isolation level and return; the first call starts Ray and says so."""
        with self._lock:
            folder = self._connect()
            handle = _RayHandle(self._task, spec, level, folder, self._cache)
            self._handles = [known for known in self._handles if not known.finished()] + [handle]
        return handle

    def shutdown(self) -> None:
        """Kill what still runs, and stop Ray if this runner started it."""
        with self._lock:
            if self._task is None:
                return
            for handle in self._handles:
                handle.cancel("the runner shuts down")
            deadline = time.monotonic() + _SHUTDOWN_S
            while not all(handle.finished() for handle in self._handles) and time.monotonic() < deadline:
                time.sleep(0.02)
            if self._owns_ray:
                import ray

                ray.shutdown()
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
            self._task, self._folder, self._handles = None, None, []

    def _connect(self) -> Path:
        """Start or join Ray once; the private folder for its files and ours."""
        if self._folder is not None:
            return self._folder
        self._announce("starting Ray (this takes some seconds)")
        started = time.monotonic()
        folder = _private_folder()
        try:
            self._task, self._owns_ray = _start_ray(folder, self._num_cpus)
        except Exception as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise JobFailedError(
                f"Ray could not be started: {error}", hint="see `interlock doctor`"
            ) from error
        self._folder = folder
        self._announce(f"Ray is ready after {time.monotonic() - started:.1f} s")
        return folder


class _RayHandle:
    """A job under a Ray task. Cancelling goes through a file, so that it works while Ray is busy."""

    def __init__(self, task: Any, spec: JobSpec, level: str, folder: Path, cache: Path | None) -> None:
        self._level = level
        self._log = LogLines(spec.log)
        self._control = folder / f"job-{secrets.token_hex(8)}"
        self._reason = ""
        self._started = time.monotonic()
        self._result: JobOutcome | InterlockError | None = None
        self._lock = threading.Lock()
        supervisor.ask(self._control, spec, level, cache)
        self._reference = task.options(name=self._control.name).remote()

    def poll(self) -> JobOutcome | None:
        """The outcome, or None while the job runs."""
        if not self.finished():
            return None
        if isinstance(self._result, InterlockError):
            raise self._result
        return self._result

    def cancel(self, reason: str) -> None:
        """Kill the job; the first reason counts."""
        with self._lock:
            if self._reason or self._result is not None:
                return
            self._reason = reason or "cancelled"
            if not supervisor.cancel(self._control, self._reason):
                self._result = self._unmeasured(self._reason)
                return
        watcher = threading.Timer(_FORCE_AFTER_S, self._force)
        watcher.daemon = True
        watcher.start()

    def lines(self) -> list[str]:
        """Complete lines that the job has printed since the last call."""
        return self._log.new()

    def finished(self) -> bool:
        """Whether the job has ended; takes its result from Ray when it has."""
        with self._lock:
            if self._result is None:
                self._result = self._take()
            return self._result is not None

    def _take(self) -> JobOutcome | InterlockError | None:
        import ray

        try:
            ready, _ = ray.wait([self._reference], timeout=0)
            if not ready:
                return None
            answer = supervisor.decode(ray.get(self._reference))
        except Exception as error:
            return self._unmeasured(self._reason or f"its supervisor died: {type(error).__name__}")
        shutil.rmtree(self._control, ignore_errors=True)
        return answer

    def _force(self) -> None:
        """The supervisor did not react: end its process, and with it the job."""
        import ray

        if not self.finished() and ray.is_initialized():
            ray.cancel(self._reference, force=True)

    def _unmeasured(self, reason: str) -> JobOutcome:
        compute = Compute(time.monotonic() - self._started, 0.0, 0, 0, "unmeasured")
        return JobOutcome(None, reason, self._level, compute, UNSEEN, "")


def _task(folder: Path) -> Callable[[], str]:
    """What a Ray worker runs: it learns from its task's name which job is meant.

    It takes no argument, so that it runs before Ray prepares to pass values on.
    """
    place = str(folder)
    spared = _NOT_FOR_SUPERVISORS

    def supervise() -> str:
        import sys
        from pathlib import Path

        import ray

        for name in spared:
            sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # as if it were not installed
        from sandbox import supervisor

        return supervisor.supervise(Path(place) / str(ray.get_runtime_context().get_task_name()))

    return supervise


def _start_ray(folder: Path, num_cpus: int) -> tuple[Any, bool]:
    """The remote form of the supervisor, and whether Ray was started here."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    joining = bool(os.environ.get("RAY_ADDRESS"))
    if not joining:
        # The token keeps others on this machine, and whoever reaches Ray's ports, out.
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32), encoding="ascii")
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
        os.environ[_LOOPBACK_ONLY[0]] = _LOOPBACK_ONLY[1]
    import ray

    before = set(listeners(os.getpid()))
    owns = not ray.is_initialized()
    if owns and not joining:
        _forget_earlier_settings()
    if owns:
        own = {} if joining else _own_ray(folder, num_cpus)
        with _sigterm_waits():
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **own)
    if owns and not joining:
        try:
            _refuse_open_ports(before)
        except JobFailedError:
            ray.shutdown()
            raise
    return ray.remote(num_cpus=1, max_retries=0, max_calls=0)(_task(folder)), owns


def _own_ray(folder: Path, num_cpus: int) -> dict[str, Any]:
    """How a Ray of our own is started: small, and in a folder of ours, for its own is open to everybody."""
    return {
        "num_cpus": num_cpus,
        "num_gpus": 0,
        "include_dashboard": False,
        "object_store_memory": _OBJECT_STORE_BYTES,
        "_temp_dir": str(folder / "r"),
    }


@contextmanager
def _sigterm_waits() -> Iterator[None]:
    """Keep SIGTERM with whoever had it while Ray starts, who hears of one that comes meanwhile at the end.

    Ray takes it for itself: in Python, where it would end a half connected driver, which crashes; and
    with the signals of a crash in compiled code, where it prints a stack trace and aborts. The latter
    happens once, and leaves SIGTERM without any handler at Ray's end, so it is done and undone here.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers are the main thread's
        return
    before = signal.getsignal(signal.SIGTERM)
    came: list[int] = []
    utils: Any = importlib.import_module("ray._private.utils")
    compiled = ctypes.CDLL(importlib.import_module("ray._raylet").__file__)
    take = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda _: None
    # A Ray that has them not starts all the same: then a SIGTERM as it connects prints a stack trace.
    take_signals = getattr(compiled, _TAKE_SIGNALS, lambda program, to_previous: None)
    give_signals_back = getattr(compiled, _GIVE_SIGNALS_BACK, lambda: None)
    take_signals(sys.argv[0].encode(), False)
    signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        yield
    finally:
        give_signals_back()
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
        utils.set_sigterm_handler = take
        if came:
            signal.raise_signal(signal.SIGTERM)


def _refuse_open_ports(before: set[Listener]) -> None:
    """Raise unless what Ray has begun to listen on here can be reached from this machine alone."""
    me = os.getpid()
    exposed = [
        f"{found.program} on {found.address}, port {found.port}"
        for found in listeners(me)
        if found not in before and not found.only_here and (found.pid == me or found.program.startswith(_OWN))
    ]
    if exposed:
        raise JobFailedError(
            f"Ray listens for other machines: {'; '.join(exposed)}",
            hint="install the version of ray that Interlock was tested with, or set RAY_ADDRESS to use a cluster",
        )


def _forget_earlier_settings() -> None:
    """Ray keeps the settings it saw when it was first imported, and the token it first used."""
    compiled: Any = importlib.import_module("ray._raylet")
    compiled.Config.initialize("")
    compiled.AuthenticationTokenLoader.instance().reset_cache()
    constants: Any = importlib.import_module("ray._private.ray_constants")
    constants.ENABLE_RAY_CLUSTER = False  # what _LOOPBACK_ONLY says to processes that begin later


def _private_folder() -> Path:
    """A folder that only this user can enter. Its path is short: Ray's socket paths have a limit."""
    short = Path("/tmp")  # noqa: S108 - mode 0700 and a random name
    return private_folder(_FOLDER_PREFIX, short if os.access(short, os.W_OK) else None)
