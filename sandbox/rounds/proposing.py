"""A proposal: trained here by a job, or handed in as a bundle that was trained elsewhere.

Invariants:
- From a job come only files, through the collector. Nothing that it wrote is unpickled, imported or run.
- A job that fails leaves a record with the reason and the end of its log: never a hang, never a proposal.
- An update that changes no file of the model is a failure, and costs no measurement.
- A round that only asked people is neither a proposal nor a failure; while its questions are open, no other round
  of the same asker runs. What people answered is mounted and digested like all training data, without their names.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from guardrails.canonical import Digest, digest, digest_file
from guardrails.errors import BundleError, JobFailedError
from guardrails.gate import Submission
from guardrails.records import Compute
from guardrails.registry import TreeEntry
from sandbox import command_learner, orders, tasks
from sandbox.answers import asking
from sandbox.answers.asking import Asked
from sandbox.answers.book import Book
from sandbox.answers.desk import asker_of
from sandbox.config import ModelConfig, Recipe
from sandbox.isolation.collector import BUNDLE, collect
from sandbox.isolation.manifest import read_manifest
from sandbox.rounds.bench import Bench, Report, desk_of, job_folder, require_own_task
from sandbox.rounds.provenance import environment, provenance
from sandbox.rounds.training import (
    has_adapter,
    intent_of,
    limited,
    merge,
    order,
    require_gpu,
    take_bundle,
    train,
)


def propose(bench: Bench, model: ModelConfig, recipe: Recipe, seed: int, report: Report) -> str | Asked:
    """Train a candidate in isolation and record it; returns the proposal's id, or what was asked instead.

    A job that fails is recorded too; then JobFailedError is raised with ``proposal`` set to its id.

    Raises:
        DeniedError: questions that this recipe asked before are still open.
        IsolationUnavailableError: the model names a GPU that is not there; nothing ran, nothing is recorded.
    """
    require_gpu(model)
    champion = bench.gate.require_ready(model.name)
    require_own_task(bench, model)
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
            try:
                bundle = _put_changed(bench, folder / "bundle", champion)
            except BundleError as error:
                raise command_learner.refused_bundle(error, replace(outcome, compute=compute)) from None
        except (JobFailedError, BundleError) as error:
            failure = bench.gate.record_failure(model.name, "propose", recipe.technique, error)
            raise JobFailedError(
                f"{failure}: {error.message}", log_tail=getattr(error, "log_tail", "")
            ) from None
        proposal = bench.gate.record_proposal(
            Submission(
                model=model.name, technique=recipe.technique, intent=manifest.intent,
                bundle=bundle, champion=champion, data=data,
                objective=orders.stated_objective(manifest.objective), recipe=recipe.settings, seed=seed,
                environment=provenance(limited(model, recipe), outcome, staged)
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
    require_own_task(bench, model)
    with job_folder(bench) as folder:
        collect(bundle, folder / "bundle", BUNDLE)
        manifest = read_manifest(folder / "bundle")
        compute = Compute(0.0, 0.0, 0, 0, "not run here")
        if has_adapter(folder):
            compute = _added(compute, merge(bench, model, folder, champion, report).compute)
        data = digest(
            b"".join(sorted(str(digest_file(p)).encode() for p in (folder / "bundle").glob("data/*")))
        )
        address = _put_changed(bench, folder / "bundle", champion)
        return bench.gate.record_proposal(
            Submission(
                model=model.name, technique="submitted", intent=intent or manifest.intent, bundle=address,
                champion=champion, data=data, objective=orders.stated_objective(manifest.objective),
                recipe={"claimed_technique": manifest.technique}, seed=manifest.seed,
                environment=environment() | orders.claimed(manifest), isolation="none", submitted=True,
                compute=compute, proposer=proposer,
            )
        )  # fmt: skip


def _put_changed(bench: Bench, bundle: Path, champion: Digest) -> Digest:
    """Store a bundle whose model is whole; refuses one whose model is the champion's, by the digests of its files.

    Measured, it would cost what any update costs, and an attempt of the budget, to find no difference.
    """
    store = bench.gate.store
    address = store.put_tree(bundle)
    if _model_in(store.tree(address)) == _model_in(store.tree(champion)):
        raise BundleError(
            "nothing changed: every file of its model is the champion's, to the byte",
            hint="look at what the learner was given to learn from, at its steps and its learning rate",
        )
    return address


def _model_in(files: tuple[TreeEntry, ...]) -> set[TreeEntry]:
    return {file for file in files if file.path.startswith("model/")}


def _put_data(bench: Bench, folder: Path, records: list[tasks.Item], book: Book, asker: str) -> Digest:
    """Lay out what a learner may see; returns the address of all of it, as one file."""
    tasks.write_items(records, folder / "train.jsonl")
    answers = asking.lay_out(book, asker, folder)
    if not answers:
        return bench.gate.store.put_file(folder / "train.jsonl")
    return bench.gate.store.put_bytes((folder / "train.jsonl").read_bytes() + answers)


def _added(first: Compute, second: Compute) -> Compute:
    return Compute(
        first.wall_s + second.wall_s,
        first.cpu_s + second.cpu_s,
        max(first.memory_bytes, second.memory_bytes),
        max(first.disk_bytes, second.disk_bytes),
        second.measured_by,
    )
