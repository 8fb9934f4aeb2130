"""One GPU for one job: which nodes are shown, what may be asked of them, where the level ranks, how a round gives it.

No GPU is needed: the machine's nodes are stood in for by nodes of the same kind in a folder. What only a
driver can show, that it works through these, is not tested here.
"""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from test_command_learner import Site, quiet
from test_engine import integrity_rule, loaded, subject, verdict
from test_seccomp import ALLOW, ARCH, run

from guardrails.errors import IsolationUnavailableError, JobFailedError, UsageError
from guardrails.policy.settings import ISOLATION_LEVELS
from guardrails.records import State, VerdictKind
from sandbox import reproduction, rounds
from sandbox.config import Learner, Recipe
from sandbox.isolation import bubblewrap, gpu, job, landlock, levels, probe, profile, syscalls
from sandbox.isolation.seccomp import compile_filter
from sandbox.isolation.spec import JobSpec, Limits, spec_from_json, spec_to_json

SHARED = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device nodes")


@pytest.fixture
def machine() -> Iterator[Path]:
    """A machine with two GPUs, one of them of another maker's neighbourhood."""
    with tempfile.TemporaryDirectory(prefix="gpu-", dir="/var/tmp") as name:
        root = Path(name)
        root.chmod(0o755)
        (root / "dev" / "nvidia-caps").mkdir(parents=True)
        for node in (*SHARED, "nvidia0", "nvidia1", "nvidia-modeset", "nvidia-caps/nvidia-cap7"):
            os.mknod(root / "dev" / node, 0o020666, os.makedev(1, 3))
            (root / "dev" / node).chmod(0o666)
        for slot, vendor in (("0000:01:00.0", "0x10de"), ("0000:02:00.0", "0x8086")):
            device = root / "sys" / "bus" / "pci" / "devices" / slot
            device.mkdir(parents=True)
            (device / "vendor").write_text(vendor + "\n")
        yield root


def _find(machine: Path, index: int = 0) -> gpu.Gpu:
    return gpu.find(index, dev=machine / "dev", root=machine)


@as_root
def test_only_the_chosen_device_is_shown(machine: Path) -> None:
    found = _find(machine, 1)
    assert {path.name for path in found.nodes} == {*SHARED, "nvidia1"}
    assert found.index == 1
    assert gpu.present(machine / "dev") == [0, 1]
    shown = {path.name for path in found.files}
    assert "0000:01:00.0" in shown
    assert "0000:02:00.0" not in shown


@as_root
def test_of_a_split_device_one_instance_is_shown(machine: Path) -> None:
    capabilities = machine / "proc" / "driver" / "nvidia" / "capabilities" / "gpu0" / "mig"
    (capabilities / "gi1" / "ci0").mkdir(parents=True)
    (capabilities / "gi1" / "ci0" / "access").write_text("DeviceFileMinor: 7\nDeviceFileMode: 292\n")
    assert machine / "dev" / "nvidia-caps" / "nvidia-cap7" in _find(machine).nodes
    (capabilities / "gi2").mkdir()
    (capabilities / "gi2" / "access").write_text("DeviceFileMinor: 8\n")
    with pytest.raises(IsolationUnavailableError, match="split into 2 instances"):
        _find(machine)


@as_root
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda dev: (dev / "nvidia0").unlink(), "no such GPU; present: 1"),
        (lambda dev: (dev / "nvidiactl").unlink(), "nvidiactl: No such file"),
        (lambda dev: (dev / "nvidia-uvm").chmod(0o600), "keeps other users out"),
        (lambda dev: (dev / "nvidia0").unlink() or (dev / "nvidia0").write_text(""), "not a device"),
    ],
)
def test_a_device_that_cannot_be_used_is_said_so(machine: Path, spoil: object, said: str) -> None:
    spoil(machine / "dev")  # type: ignore[operator]
    with pytest.raises(IsolationUnavailableError, match=said) as caught:
        _find(machine)
    assert caught.value.exit_status == 8
    assert "remedy" in str(caught.value)


def test_without_a_gpu_the_level_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "present", lambda *_: [])
    spec = JobSpec(("true",), (), tmp_path / "out", tmp_path / "log", gpu=0)
    with pytest.raises(IsolationUnavailableError, match="no such GPU") as caught:
        levels.run_job(spec, "strict+gpu")
    assert caught.value.exit_status == 8


@pytest.mark.parametrize(("level", "number"), [("strict", 0), ("landlock", 0), ("strict+gpu", None)])
def test_a_gpu_and_its_level_go_together(tmp_path: Path, level: str, number: int | None) -> None:
    spec = JobSpec(("true",), (), tmp_path / "out", tmp_path / "log", gpu=number)
    with pytest.raises(UsageError, match="a job with a GPU runs at strict"):
        job.run(spec, level, lambda: "")


def test_the_level_ranks_below_strict() -> None:
    assert levels.LEVELS == ISOLATION_LEVELS == ("none", "landlock", "strict+gpu", "strict")
    assert levels.at_least("strict+gpu", "landlock")
    assert not levels.at_least("strict+gpu", "strict")


@pytest.mark.parametrize(
    ("minimum", "kind"),
    [
        ("landlock", VerdictKind.ELIGIBLE),
        ("strict+gpu", VerdictKind.ELIGIBLE),
        ("strict", VerdictKind.BLOCKED),
    ],
)
def test_a_policy_says_whether_it_suffices(minimum: str, kind: VerdictKind) -> None:
    policy = loaded(integrity_rule(), isolation={"minimum": minimum})
    about = subject(isolation="strict+gpu", measured_at="strict")
    assert verdict([policy], about=about).kind is kind


def test_a_level_with_a_device_is_no_substitute(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def nothing_holds(level: str, **_: object) -> None:
        asked.append(level)
        raise IsolationUnavailableError(level, ["no"])

    monkeypatch.setattr(levels, "require", nothing_holds)
    with pytest.raises(IsolationUnavailableError):
        levels.strictest("landlock")
    assert asked == ["strict", "landlock"]


@as_root
def test_the_constructed_profile(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _find(machine)
    monkeypatch.setattr(profile.gpu, "find", lambda _: found)
    limits = Limits(memory_bytes=3 << 30)
    (tmp_path / "out").mkdir()
    spec = JobSpec(("true",), (), tmp_path / "out", tmp_path / "log", limits, gpu=0)
    plan = profile.plan(spec, "strict+gpu", tmp_path, control_fd=3, info_fd=4)
    bound = {plan.argv[i + 1] for i, word in enumerate(plan.argv) if word == "--dev-bind"}
    assert bound == {str(path) for path in found.nodes}
    assert plan.guard is not None
    rights = dict(plan.guard["landlock"])
    for node in found.nodes:
        assert rights[str(node)] == landlock.READ_FILE | landlock.WRITE_FILE | landlock.IOCTL_DEVICE
    assert not any(right & landlock.IOCTL_DEVICE for path, right in rights.items() if path not in bound)
    assert resource.RLIMIT_DATA not in plan.guard["rlimits"]
    assert plan.guard["rlimits"][resource.RLIMIT_MEMLOCK] == 3 << 30
    assert plan.guard["env"]["INTERLOCK_LEVEL"] == "strict+gpu"
    # The control: without a device none of this is there.
    plain = JobSpec(("true",), (), tmp_path / "out", tmp_path / "log", limits)
    (tmp_path / "second").mkdir()
    without = profile.plan(plain, "strict", tmp_path / "second", control_fd=3, info_fd=4)
    assert without.guard is not None
    assert "--dev-bind" not in without.argv
    assert without.guard["rlimits"][resource.RLIMIT_MEMLOCK] == 0
    assert without.guard["filter"] != plan.guard["filter"]


_SEES = """
import os
base = {base!r}
for name in ("nvidia0", "nvidia1", "nvidia-modeset", "nvidiactl"):
    try:
        os.close(os.open(f"{{base}}/dev/{{name}}", os.O_RDWR))
        print(name, "open")
    except OSError as error:
        print(name, error.errno)
"""


@as_root
def test_a_job_opens_its_device_and_no_other(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if bubblewrap.find_bwrap() is None:
        pytest.skip("no bwrap")
    found = _find(machine)
    monkeypatch.setattr(profile.gpu, "find", lambda _: found)
    spec = JobSpec(
        ("python", "-c", _SEES.format(base=str(machine))), (), tmp_path / "out", tmp_path / "log", gpu=0
    )
    outcome = job.run(spec, "strict+gpu", lambda: "")
    assert outcome.level == "strict+gpu"
    assert outcome.log_tail == "nvidia0 open\nnvidia1 2\nnvidia-modeset 2\nnvidiactl open\n"


@pytest.mark.parametrize("machine_name", syscalls.MACHINES)
@pytest.mark.parametrize(
    ("request_", "allowed"),
    [
        (0xC0484629, True),  # the driver's letter
        (0x30000001, True),  # opening the memory part
        (25, True),  # its plain numbers
        (0x5412, False),  # pushing into a terminal
        (0x541C, False),  # the console's
        (0x40086602, False),  # flags of a file
        (0x6601, False),
        (0x8933, False),  # interfaces of the network
        (0xC0045877, False),  # freezing a file system
    ],
)
def test_what_may_be_asked_of_a_device(machine_name: str, request_: int, allowed: bool) -> None:
    call = syscalls.number(syscalls.CHECKED["ioctl"], machine_name)
    assert call is not None
    said = {
        on: run(
            compile_filter(machine_name, namespaces=True, gpu=on), call, ARCH[machine_name], (3, request_)
        )
        for on in (True, False)
    }
    assert (said[True] == ALLOW) is allowed
    assert said[False] != ALLOW


def test_the_number_survives_json(tmp_path: Path) -> None:
    spec = JobSpec(("true",), (), tmp_path / "o", tmp_path / "l", gpu=3)
    assert spec_from_json(spec_to_json(spec)) == spec
    earlier = {key: value for key, value in spec_to_json(spec).items() if key != "gpu"}
    assert spec_from_json(earlier).gpu is None


def test_the_driver_names_the_device(tmp_path: Path) -> None:
    assert gpu.named(0, root=tmp_path) == "unknown"
    for number, model in enumerate(("NVIDIA T4", "NVIDIA L4")):
        folder = tmp_path / "proc/driver/nvidia/gpus" / f"0000:0{number}:00.0"
        folder.mkdir(parents=True)
        text = f"Model: \t\t {model}\nIRQ:   \t\t 138\nBus Location: \t 0000:01:00.0\nDevice Minor: \t {number}\n"
        (folder / "information").write_text(text)
    (tmp_path / "sys/module/nvidia").mkdir(parents=True)
    (tmp_path / "sys/module/nvidia/version").write_text("535.113.01\n")
    assert gpu.named(1, root=tmp_path) == "NVIDIA L4, driver 535.113.01"
    assert gpu.named(2, root=tmp_path) == "unknown"


# --- rounds ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("gpu") / "ws")


@pytest.fixture
def device(machine: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A machine whose second GPU jobs can be given; that the level holds there is taken for granted."""
    monkeypatch.setattr(gpu, "find", lambda index, of=gpu.find: of(index, dev=machine / "dev", root=machine))
    monkeypatch.setattr(gpu, "named", lambda index: f"stand-in {index}")
    real = probe.require
    monkeypatch.setattr(probe, "require", lambda level, *a: None if level == gpu.LEVEL else real(level, *a))
    return "stand-in 1"


NUDGE = """
import json, os, shutil
from pathlib import Path
inside, out = Path(os.environ["INTERLOCK_IN"]), Path(os.environ["INTERLOCK_OUT"])
shutil.copytree(inside / "champion", out / "model")
weights = out / "model" / "model.safetensors"
weights.write_bytes(weights.read_bytes()[:-4] + bytes(4))  # the last number becomes zero
weights = out / "model" / "model.safetensors"
weights.chmod(0o600)
data = bytearray(weights.read_bytes())
data[-4] ^= 1  # an update that changes nothing is refused
weights.write_bytes(data)
device = json.loads((inside / "request.json").read_text())["device"]
manifest = {"schema": "interlock/bundle/v1", "intent": f"told {device}", "technique": "nudge"}
(out / "proposal.json").write_text(json.dumps(manifest))
"""
NUDGED = Recipe("command:nudge", {}, Learner("nudge", ("python", "-c", NUDGE)))
"""What is learnt does not matter here, nor by whom."""


def rows(site: Site) -> int:
    with site.workspace.log.read() as snapshot:
        return snapshot.size


def started(site: Site, monkeypatch: pytest.MonkeyPatch) -> list[tuple[JobSpec, str]]:
    """The jobs that are started from now on, each with its level."""
    asked: list[tuple[JobSpec, str]] = []
    start = site.bench.runner.start
    monkeypatch.setattr(
        site.bench.runner, "start", lambda spec, level: asked.append((spec, level)) or start(spec, level)
    )
    return asked


def on_gpu(site: Site, recipe: Recipe | None = None) -> str:
    proposal = rounds.propose(site.bench, replace(site.model, gpu=1), recipe or NUDGED, 1, quiet)
    assert isinstance(proposal, str)
    return proposal


@as_root
def test_a_round_trains_on_the_models_gpu_and_its_record_says_so(
    site: Site, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = started(site, monkeypatch)
    proposal = on_gpu(site)
    assert [(spec.gpu, level) for spec, level in asked] == [(1, "strict+gpu")]
    record = site.row(proposal).proposal
    assert record is not None
    assert site.intent(site.row(proposal)) == "told cuda:0"
    assert record.isolation == "strict+gpu"
    assert record.environment["gpu"] == device


@as_root
@pytest.mark.slow
def test_it_is_measured_on_the_processor_and_the_shipped_policies_let_it_not_through(
    site: Site, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proposal = on_gpu(site)
    asked = started(site, monkeypatch)
    state = rounds.measure(site.bench, replace(site.model, gpu=1), proposal, quiet)
    assert [(spec.gpu, level) for spec, level in asked] == [(None, "strict")]
    row = site.row(proposal)
    assert row.evidence is not None
    assert row.evidence.isolation == "strict"
    assert state == State.BLOCKED
    assert row.verdict is not None
    assert any("strict+gpu" in finding.message for finding in row.verdict.findings)


@as_root
def test_a_learner_of_ours_fails_where_its_gpu_does_not_compute(site: Site, device: str) -> None:
    with pytest.raises(JobFailedError, match="finds no GPU"):
        on_gpu(site, Recipe("self_supervised", {"steps": "1"}))


def test_a_gpu_that_is_not_there_ends_the_round_before_anything_runs(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "present", lambda *_: [])
    before = rows(site)
    monkeypatch.setattr(site.bench.runner, "start", lambda *_: pytest.fail("a job was started"))
    with pytest.raises(IsolationUnavailableError, match=r"no such GPU[^$]*gpu = 1 in \[models.tiny\]"):
        on_gpu(site)
    assert rows(site) == before


@as_root
def test_what_a_gpu_trained_is_repeated_on_one_and_nobody_is_accused(
    site: Site, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proposal = on_gpu(site)
    with pytest.raises(UsageError, match=rf"trained on a GPU \({device}\)"):
        reproduction.reproduce(site.bench, site.model, proposal, NUDGED.learner, quiet)
    asked = started(site, monkeypatch)
    # The stand-in computes as the processor does; that other bytes come out is what a real one would do.
    monkeypatch.setattr(reproduction, "listed", lambda folder, of=reproduction.listed: of(folder)[1:])
    found = reproduction.reproduce(site.bench, replace(site.model, gpu=1), proposal, NUDGED.learner, quiet)
    assert [(spec.gpu, level) for spec, level in asked] == [(1, "strict+gpu")]
    assert not found.reproduced
    assert found.sentence.endswith(
        "it was trained on a GPU (stand-in 1), and the same bytes are promised on processors only"
    )
    assert "tamper" not in found.sentence


@as_root
def test_what_the_processor_trained_is_repeated_there(site: Site) -> None:
    proposal = rounds.propose(site.bench, site.model, NUDGED, 1, quiet)
    assert isinstance(proposal, str)
    record = site.row(proposal).proposal
    assert record is not None
    assert site.intent(site.row(proposal)) == "told cpu"
    assert "gpu" not in record.environment
    found = reproduction.reproduce(site.bench, replace(site.model, gpu=0), proposal, NUDGED.learner, quiet)
    assert found.reproduced
    assert found.differs == {}
