"""What a job finds inside, and how it is described."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import pytest
from isolated_jobs import Run, runner

from guardrails.errors import JobFailedError, UsageError
from sandbox.isolation import levels, notify, profile
from sandbox.isolation.meter import folder_bytes
from sandbox.isolation.spec import (
    MIB,
    JobSpec,
    Limits,
    Mount,
    outcome_from_json,
    outcome_to_json,
    spec_from_json,
    spec_to_json,
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return runner(tmp_path)


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
