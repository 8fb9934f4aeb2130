"""One round: propose, collect, merge, measure, judge. Each step an isolated job; the gate writes the log.

Invariants:
- The job that proposes never measures; what measures is another process with another set of mounts.
- From a job come only files, through the collector. Nothing a job wrote is unpickled, imported or run.
- What is digested is what is measured and what would be served: an adapter is merged in a job of its
  own, the merged model is the bundle's, and the adapter is kept beside it.
- A job that fails leaves a record with the reason and the end of its log: never a hang, never a proposal.
- A halt ends running jobs: it is looked for twice a second.
- A round that only asked people is neither a proposal nor a failure; while its questions are open, no other round
  of the same asker runs. What people answered is mounted and digested like all training data, without their names.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from guardrails.canonical import Digest, decimal, digest, encode, parse
from guardrails.codec import decode_record
from guardrails.errors import (
    BundleError,
    DeniedError,
    HaltedError,
    InterlockError,
    JobFailedError,
    RecordError,
    UsageError,
)
from guardrails.gate import Gate, MeasurementOrder, Submission
from guardrails.matches import Stopping
from guardrails.policy.facts import adopted_task
from guardrails.records import Compute, Measurements, ModelKind
from guardrails.view import proven_view_of
from sandbox import command_learner, orders, tasks
from sandbox.answers import asking
from sandbox.answers.asking import Asked
from sandbox.answers.book import Book
from sandbox.answers.desk import Desk, asker_of
from sandbox.canaries import canaries
from sandbox.command_learner import Staged
from sandbox.config import ModelConfig, Recipe
from sandbox.isolation import interpreter
from sandbox.isolation.collector import BUNDLE, MEASUREMENT, MERGED, TRAINED, collect
from sandbox.isolation.manifest import Manifest, read_manifest
from sandbox.isolation.spec import JobOutcome, JobSpec, Limits, Mount
from sandbox.runner import Runner
from sandbox.worker.questions import Question

Report = Callable[[str, float], None]
"""Takes the stage's name and the share done, for people to watch."""

POLL_S = 0.1
HALT_CHECK_S = 0.5
MAX_MEASUREMENT_BYTES = 64 << 20
_LINES_LOOKED_AT = 100
STOPPING = ("games",)
"""Probes that may stop before their last item."""
PACKAGES = ("torch", "transformers", "peft", "safetensors", "tokenizers", "numpy")


@dataclass(frozen=True)
class Bench:
    """What a round works with. ``level`` is the isolation level that every job must have."""

    gate: Gate
    runner: Runner
    workspace: Path
    secret: bytes
    level: str


def propose(bench: Bench, model: ModelConfig, recipe: Recipe, seed: int, report: Report) -> str | Asked:
    """Train a candidate in isolation and record it; returns the proposal's id, or what was asked instead.

    A job that fails is recorded too; then JobFailedError is raised with ``proposal`` set to its id.

    Raises:
        DeniedError: questions that this recipe asked before are still open.
    """
    champion = bench.gate.require_ready(model.name)
    _require_own_task(bench, model)
    desk, asker = desk_of(bench, model.name), asker_of(recipe)
    book = desk.book()
    asking.require_answered(book, model.name, asker)
    with job_folder(bench) as folder:
        intent = intent_of(model.name, recipe.technique, seed)
        records = tasks.training_records(model, bench.workspace, bench.secret)
        data = _put_data(bench, folder / "data", records, book, asker)
        request = order(model, recipe, seed, champion, intent)
        try:
            outcome, staged = train(bench, model, recipe, folder, request, report)
            try:
                if asking.only_asks(folder / "propose" / "out"):
                    return asking.take_over(
                        desk, asker, champion, folder / "propose" / "out", folder / "asked"
                    )
                manifest, questions = take_bundle(folder)
                desk.check(asker, questions)
            except BundleError as error:
                raise command_learner.refused_bundle(error, outcome) from None
            compute = outcome.compute
            if has_adapter(folder):
                compute = _added(compute, merge(bench, model, folder, champion, report).compute)
        except (JobFailedError, BundleError) as error:
            failure = bench.gate.record_failure(model.name, "propose", recipe.technique, error)
            raise JobFailedError(
                f"{failure}: {error.message}", log_tail=getattr(error, "log_tail", "")
            ) from None
        proposal = bench.gate.record_proposal(
            Submission(
                model=model.name, technique=recipe.technique, intent=manifest.intent,
                bundle=bench.gate.store.put_tree(folder / "bundle"), champion=champion, data=data,
                objective=orders.stated_objective(manifest.objective), recipe=recipe.settings, seed=seed,
                environment=provenance(model, outcome, staged)
                | orders.ordered(recipe, model.kind) | orders.claimed(manifest),
                isolation=outcome.level, submitted=False,
                compute=compute, proposer="loop", authors=book.authors_for(asker),
            )
        )  # fmt: skip
        # After the record: were it the other way round, a crash between them would lose what people said.
        desk.note_used(proposal, book.answers_for(asker))
        desk.ask(asker, champion, questions)
        return proposal


def submit(bench: Bench, model: ModelConfig, bundle: Path, intent: str, proposer: str, report: Report) -> str:
    """Take an update trained elsewhere through the same collector; returns the proposal's id.

    Raises:
        BundleError: The bundle was refused; nothing was recorded.
    """
    champion = bench.gate.require_ready(model.name)
    with job_folder(bench) as folder:
        collect(bundle, folder / "bundle", BUNDLE)
        manifest = read_manifest(folder / "bundle")
        compute = Compute(0.0, 0.0, 0, 0, "not run here")
        if has_adapter(folder):
            compute = _added(compute, merge(bench, model, folder, champion, report).compute)
        data = digest(
            b"".join(sorted(str(_file_digest(p)).encode() for p in (folder / "bundle").glob("data/*")))
        )
        address = bench.gate.store.put_tree(folder / "bundle")
        return bench.gate.record_proposal(
            Submission(
                model=model.name, technique="submitted", intent=intent or manifest.intent, bundle=address,
                champion=champion, data=data, objective=orders.stated_objective(manifest.objective),
                recipe={"claimed_technique": manifest.technique}, seed=manifest.seed,
                environment=environment() | orders.claimed(manifest), isolation="none", submitted=True,
                compute=compute, proposer=proposer,
            )
        )  # fmt: skip


def measure(bench: Bench, model: ModelConfig, proposal_id: str, report: Report) -> str:
    """Measure a proposal against the champion on private items, and judge it; returns its new state."""
    _require_own_task(bench, model)
    with _measuring(bench, proposal_id), job_folder(bench) as folder:
        order = bench.gate.begin_measurement(proposal_id)
        mounts = {}
        for name, bundle in (("candidate", order.bundle), ("champion", order.champion)):
            bench.gate.store.checkout(bundle, folder / name, below="model")
            mounts[f"/in/{name}"] = folder / name
        request: dict[str, Any] = {
            "kind": model.kind.value, "candidate": "/in/candidate", "champion": "/in/champion",
            "suites": {}, "samples": model.samples, "seed": order.seed, "out": "/out",
        }  # fmt: skip
        if order.original != order.champion:
            bench.gate.store.checkout(order.original, folder / "original", below="model")
            mounts["/in/original"] = folder / "original"
        request["original"] = "/in/original" if order.original != order.champion else "/in/champion"
        drawn: dict[str, tuple[str, ...]] = {}
        for suite in tasks.private_suites(model, bench.workspace, bench.secret, order.nonce):
            tasks.write_items(suite.items, folder / "items" / f"{suite.name}.jsonl")
            request["suites"][suite.name] = {"probe": suite.probe, "path": f"/in/items/{suite.name}.jsonl"}
            if suite.probe in STOPPING and suite.name in order.matches:
                request["suites"][suite.name]["until"] = _until(order.matches[suite.name])
                drawn[suite.name] = tuple(item["id"] for item in suite.items)
        mounts["/in/items"] = folder / "items"
        mounts["/in/data"] = _records(bench, order, folder)
        request["data"] = "/in/data"
        if model.kind is ModelKind.LLM:
            pool = tasks.training_records(model, bench.workspace, bench.secret)
            tasks.write_items(pool, folder / "pool" / "train.jsonl")
            mounts["/in/pool"], request["pool"] = folder / "pool", "/in/pool"
            request |= {"losses": model.losses, "meaning": model.meaning, "spans": model.spans}
            if model.canaries:
                tasks.write_items(canaries(model, bench.secret), folder / "canaries" / "canaries.jsonl")
                mounts["/in/canaries"] = folder / "canaries"
                request["canaries"] = "/in/canaries/canaries.jsonl"
        cache = _champion_cache(bench, order.champion)
        if cache.exists():
            mounts["/in/cache.json"] = cache
            request["cache"] = "/in/cache.json"
        try:
            outcome = _run(bench, model, folder, "measure", request, mounts, report)
            collect(folder / "measure" / "out", folder / "measured", MEASUREMENT)
            measured = (folder / "measured" / "measurements.json").read_bytes()
            _require_order(decode_record(Measurements, parse(measured)), drawn)
        except (JobFailedError, BundleError, RecordError) as error:
            bench.gate.record_failure(model.name, "measure", order.technique, error, proposal_id=proposal_id)
            raise JobFailedError(
                f"{proposal_id}: {error.message}", log_tail=getattr(error, "log_tail", "")
            ) from None
        _keep_cache(folder / "measured" / "cache.json", cache)
        bench.gate.record_evidence(order, measured, evaluator_version(), outcome.level, outcome.compute)
    return bench.gate.judge(proposal_id)


def _require_own_task(bench: Bench, model: ModelConfig) -> None:
    """Refuse a model that is configured for another task than it was adopted for, which the rules go by.

    Its suites would be another task's, made by whoever writes the configuration, under the names that rules know.
    """
    with proven_view_of(bench.gate.log) as view:
        adopted = adopted_task(model.kind, view.model(model.name).labels)
    configured = adopted_task(model.kind, tasks.labels_of(model))
    if configured != adopted:
        raise DeniedError(
            f"{model.name} was adopted for the task {adopted}, interlock.toml says {configured}",
            hint="change task or levels back, or add the model for this task under another name",
        )


def environment() -> dict[str, str]:
    """What a run depends on besides its inputs: versions and the processor."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "absent"
    return {"python": platform.python_version(), "machine": platform.machine(), **versions}


def intent_of(model: str, technique: str, seed: int) -> str:
    """What our own learners state as the purpose of a proposal."""
    return f"{technique} on {model}, seed {seed}"


def order(model: ModelConfig, recipe: Recipe, seed: int, champion: Digest, intent: str) -> dict[str, Any]:
    """The request of a learner's job: all that it is told."""
    return {
        "kind": model.kind.value, "technique": recipe.technique, "recipe": recipe.settings, "seed": seed,
        "champion": "/in/champion", "data": "/in/data", "out": "/out", "base": str(champion), "intent": intent,
    }  # fmt: skip


def train(
    bench: Bench, model: ModelConfig, recipe: Recipe, folder: Path, request: dict[str, Any], report: Report
) -> tuple[JobOutcome, Staged | None]:
    """Run one learner on the champion that ``request`` names and on ``folder / "data"``, to its end.

    Raises:
        JobFailedError: it did not end well.
    """
    bench.gate.store.checkout(Digest.parse(request["base"]), folder / "champion", below="model")
    mounts = {"/in/champion": folder / "champion", "/in/data": folder / "data"}
    staged = command_learner.stage(recipe.learner, folder) if recipe.learner else None
    return _run(bench, _limited(model, recipe), folder, "propose", request, mounts, report, staged), staged


def take_bundle(folder: Path) -> tuple[Manifest, tuple[Question, ...]]:
    """Collect what a learner left into ``folder / "bundle"``; its questions are no part of that."""
    collect(folder / "propose" / "out", folder / "bundle", TRAINED)
    return read_manifest(folder / "bundle"), asking.set_aside(folder / "bundle")


def has_adapter(folder: Path) -> bool:
    """Whether the bundle's model is an adapter, to be merged."""
    return (folder / "bundle" / "model" / "adapter_config.json").exists()


def merge(bench: Bench, model: ModelConfig, folder: Path, champion: Digest, report: Report) -> JobOutcome:
    """Merge a bundle's adapter into the champion; afterwards ``model/`` is whole, ``adapter/`` beside it."""
    bundle = folder / "bundle"
    if (bundle / "adapter").exists():
        raise BundleError(
            "adapter: beside an adapter in model/ there is no place for another",
            hint="put either a whole model into model/, or an adapter",
        )
    (bundle / "model").rename(bundle / "adapter")
    request = {"champion": "/in/champion", "adapter": "/in/adapter", "out": "/out"}
    if not (folder / "champion").exists():
        bench.gate.store.checkout(champion, folder / "champion", below="model")
    mounts = {"/in/champion": folder / "champion", "/in/adapter": bundle / "adapter"}
    outcome = _run(bench, model, folder, "merge", request, mounts, report)
    collect(folder / "merge" / "out", folder / "merged", MERGED)
    (folder / "merged" / "model").rename(bundle / "model")
    return outcome


def provenance(model: ModelConfig, outcome: JobOutcome, staged: Staged | None) -> dict[str, str]:
    """What the run depended on, which program it was, and what that was refused."""
    machine = {"processor": processor(), "threads": str(model.threads)}
    return environment() | machine | (staged.provenance if staged else {}) | command_learner.refusals(outcome)


def processor() -> str:
    """What the processor calls itself: libraries choose their arithmetic by it, so its results are its own."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return "".join(c for c in (names or ["unknown"])[0][:80] if c.isprintable())


def evaluator_version() -> str:
    """Digest of the measuring code and of the packages that it stands on."""
    folder = Path(__file__).parent / "worker"
    sources = {str(p.relative_to(folder)): str(_file_digest(p)) for p in sorted(folder.rglob("*.py"))}
    return digest(encode({**sources, **environment()})).hex[:16]


# --- inside --------------------------------------------------------------------------------


def desk_of(bench: Bench, model: str) -> Desk:
    """Where the questions about a model lie, under the roster in force."""
    with bench.gate.log.read_proven() as snapshot:
        return Desk.at(bench.workspace, model, snapshot)


def _put_data(bench: Bench, folder: Path, records: list[tasks.Item], book: Book, asker: str) -> Digest:
    """Lay out what a learner may see; returns the address of all of it, as one file."""
    tasks.write_items(records, folder / "train.jsonl")
    answers = asking.lay_out(book, asker, folder)
    if not answers:
        return bench.gate.store.put_file(folder / "train.jsonl")
    return bench.gate.store.put_bytes((folder / "train.jsonl").read_bytes() + answers)


def _run(
    bench: Bench, model: ModelConfig, folder: Path, stage: str, request: dict[str, Any],
    mounts: dict[str, Path], report: Report, staged: Staged | None = None,
) -> JobOutcome:  # fmt: skip
    """Run one worker, or a program in its place, to its end; raises JobFailedError unless it exits with 0."""
    interpreter.refuse_to_show(bench.workspace)
    own = folder / stage
    (own / "out").mkdir(parents=True)
    request_file = own / "request.json"
    request_file.write_text(json.dumps(request), encoding="utf-8")
    limits = model.limits
    if staged is not None:
        mounts = mounts | staged.mounts
    spec = JobSpec(
        argv=staged.argv if staged else ("python", "-m", f"sandbox.worker.{stage}", "/in/request.json"),
        inputs=(Mount(request_file, "/in/request.json"), *(Mount(path, to) for to, path in sorted(mounts.items()))),
        out=own / "out",
        log=own / "log.txt",
        limits=Limits(
            wall_s=limits.wall_s, cpu_s=limits.cpu_s, memory_bytes=limits.memory_bytes,
            processes=limits.processes, output_bytes=limits.disk_bytes, scratch_bytes=limits.disk_bytes,
        ),
        # Waiting threads sleep: spinning ones slow a busy machine down several times.
        env={"OMP_NUM_THREADS": str(model.threads), "OMP_WAIT_POLICY": "PASSIVE"},
    )  # fmt: skip
    outcome = _wait(bench, spec, stage, report)
    if outcome.killed or outcome.exit != 0:
        reason = outcome.killed or f"exit status {outcome.exit}"
        last = outcome.log_tail.strip().splitlines()[-1:] or ["no output"]
        refused = ", ".join(f"{denial.what} ({denial.count})" for denial in outcome.denied if denial.count)
        raise JobFailedError(
            f"{stage} job ended: {reason}: {last[0][:300]}"
            + (f"; refused: {refused[:300]}" if refused else ""),
            log_tail=outcome.log_tail,
            compute=outcome.compute,
        )
    report(stage, 1.0)
    return outcome


def _wait(bench: Bench, spec: JobSpec, stage: str, report: Report) -> JobOutcome:
    handle = bench.runner.start(spec, bench.level)
    look_at = time.monotonic() + HALT_CHECK_S
    try:
        while (outcome := handle.poll()) is None:
            _show_latest(handle.lines(), stage, report)
            if time.monotonic() > look_at:
                _require_no_halt(bench)
                look_at = time.monotonic() + HALT_CHECK_S
            time.sleep(POLL_S)
    except UsageError as error:
        # The job cannot be run as described, for example because there is no such program.
        raise JobFailedError(f"{stage} job could not be started: {error.message}", hint=error.hint) from None
    except BaseException as error:
        # Also on Ctrl-C: whoever stops waiting ends the job.
        handle.cancel(str(error) or type(error).__name__)
        raise
    return outcome


def _require_no_halt(bench: Bench) -> None:
    if bench.gate.halted_by():
        raise HaltedError("halted: the running job was ended", hint="`interlock resume` lifts it")


def _show_latest(lines: list[str], stage: str, report: Report) -> None:
    """Forward the last of a job's progress lines. It is a claim for the eye only; anything odd is left out.

    Not every line: a job can print them faster than anybody can be shown them, and a halt waits meanwhile.
    """
    for line in lines[: -_LINES_LOOKED_AT - 1 : -1]:
        try:
            value = json.loads(line)
            share, name = float(value["progress"]), str(value.get("stage", stage))
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
            continue
        if 0.0 <= share <= 1.0:
            report(f"{stage}: {''.join(c for c in name[:40] if c.isprintable())}", share)
            return


def _until(stop: Stopping) -> dict[str, str]:
    return {"null": decimal(stop.null), "alpha": decimal(stop.alpha), "least": str(stop.least)}


def _require_order(measured: Measurements, drawn: dict[str, tuple[str, ...]]) -> None:
    """A match that may stop early counts only in the order of the draw, from its first item on."""
    for series in measured.series:
        wanted = drawn.get(series.suite, series.items)
        if series.items != wanted[: len(series.items)]:
            raise BundleError(
                f"suite {series.suite}: its items are not the first of those drawn, in their order"
            )


def _limited(model: ModelConfig, recipe: Recipe) -> ModelConfig:
    """The model with the limits of the recipe's program, where these are tighter."""
    if recipe.learner is None or recipe.learner.limits is None:
        return model
    return replace(model, limits=model.limits.tightest(recipe.learner.limits))


def _records(bench: Bench, order: MeasurementOrder, folder: Path) -> Path:
    """The training records to examine: what the supervisor mounted; for a submission, what it claims."""
    if order.submitted:
        if any(entry.path.startswith("data/") for entry in bench.gate.store.tree(order.bundle)):
            bench.gate.store.checkout(order.bundle, folder / "data", below="data")
        else:
            (folder / "data").mkdir()
        return folder / "data"
    file = folder / "data" / "train.jsonl"
    file.parent.mkdir()
    file.write_bytes(bench.gate.store.get_bytes(order.data))
    return file.parent


def _added(first: Compute, second: Compute) -> Compute:
    return Compute(
        first.wall_s + second.wall_s,
        first.cpu_s + second.cpu_s,
        max(first.memory_bytes, second.memory_bytes),
        max(first.disk_bytes, second.disk_bytes),
        second.measured_by,
    )


@contextmanager
def job_folder(bench: Bench) -> Iterator[Path]:
    """A folder of its own for one step, locked while it lives, so that left-over ones can be told apart."""
    parent = bench.workspace / "jobs"
    parent.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="job-", dir=parent))
    try:
        with _locked(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(workspace: Path) -> None:
    """Remove the job folders that a killed process left behind."""
    for folder in (workspace / "jobs").glob("job-*"):
        with contextlib.suppress(BlockingIOError, OSError), _locked(folder):
            shutil.rmtree(folder, ignore_errors=True)


def is_being_measured(bench: Bench, proposal_id: str) -> bool:
    """True while a living process measures this proposal."""
    try:
        with _measuring(bench, proposal_id):
            return False
    except DeniedError:
        return True


@contextmanager
def _measuring(bench: Bench, proposal_id: str) -> Iterator[None]:
    """One process at a time measures a proposal; the lock goes with its process."""
    folder = bench.workspace / "jobs" / f"measuring-{digest(proposal_id.encode()).short}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(folder):
            yield
    except BlockingIOError:
        raise DeniedError(f"{proposal_id} is being measured by another process", hint="wait for it") from None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _champion_cache(bench: Bench, champion: Digest) -> Path:
    return bench.workspace / "cache" / f"{champion.short}-{evaluator_version()}.json"


def _keep_cache(fresh: Path, cache: Path) -> None:
    """Keep the champion's scores for the next measurement; losing them costs time only."""
    if fresh.exists():
        cache.parent.mkdir(exist_ok=True)
        fresh.replace(cache)


def _file_digest(path: Path) -> Digest:
    try:
        return digest(path.read_bytes())
    except OSError as error:
        raise InterlockError(f"{path} cannot be read: {error.strerror}") from None
