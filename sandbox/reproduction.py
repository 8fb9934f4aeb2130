"""A proposal made again, to compare: the same champion, records, recipe and seed, under the same isolation.

Invariants:
- Nothing is recorded and no artifact is stored; what was made again is thrown away after it was compared.
- Other bytes mean "not reproduced", beside all that is known to be different here: never that anybody tampered. Whether
  the record and the stored bundle are what they were, digests and signatures say (``interlock log verify``).
- A proposal that was trained elsewhere, or by no job, is refused: there is no order to follow. One that a GPU trained is
  repeated on a GPU, any other on the processor, whatever the model is configured for by now.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from guardrails.canonical import Digest, digest, digest_file
from guardrails.errors import BundleError, UsageError
from guardrails.records import Proposal
from guardrails.registry import TreeEntry, encode_manifest
from guardrails.view import view_of
from sandbox import command_learner, orders
from sandbox.config import Learner, ModelConfig, Recipe
from sandbox.rounds import Bench, Report, job_folder, training
from sandbox.rounds.provenance import GPU, provenance
from sandbox.worker.questions import ANSWERS

ANSWER_KEYS = frozenset({"chosen", "fresh", "kind", "prompt", "skipped"})
"""What tells a line of answers from one of a task's records: both lie in one artifact, the records first."""
_NOT_OF_THE_MACHINE = ("claim.", "denied.")
_FILES_TOLD = 3


@dataclass(frozen=True)
class Reproduction:
    """What came of it. ``files`` are those with other bytes; ``differs`` is name → (on record, here).

    ``gpu`` is the one that trained the proposal, '' for the processor.
    """

    proposal: str
    recorded: Digest
    made: Digest
    files: tuple[str, ...]
    differs: dict[str, tuple[str, str]]
    gpu: str = ""

    @property
    def reproduced(self) -> bool:
        """Whether the bundle is the same, byte for byte."""
        return self.made == self.recorded

    @property
    def sentence(self) -> str:
        """The outcome for people."""
        if self.reproduced:
            return f"{self.proposal} reproduced: the same bundle, {self.recorded}"
        named = ", ".join(self.files[:_FILES_TOLD]) + (", …" if len(self.files) > _FILES_TOLD else "")
        if self.differs:
            pairs = (f"{name} {here} (on record: {was})" for name, (was, here) in self.differs.items())
            why = f"different here: {', '.join(pairs)}"
        else:
            why = "nothing that is on record of the machine and its versions is different here"
        if self.gpu:
            why += (
                f"; it was trained on a GPU ({self.gpu}), and the same bytes are promised on processors only"
            )
        return f"{self.proposal} not reproduced: other bytes in {named}; {why}"


def reproduce(
    bench: Bench, model: ModelConfig, proposal_id: str, learner: Learner | None, report: Report
) -> Reproduction:
    """Train once more as a proposal's record says, and compare. ``learner`` is the program of ``command:NAME``.

    Raises:
        UsageError: the proposal was not trained by a job of this workspace, or on a GPU, and the model names none.
        IsolationUnavailableError: it was trained on a GPU, and the one that the model names is not there.
        JobFailedError: a job did not end well; unlike a failed proposal this is not recorded.
    """
    bench.gate.require_ready(model.name)
    with view_of(bench.gate.log) as view:
        proposal = view.proposal(proposal_id).proposal
    if proposal is None or proposal.submitted:
        raise UsageError(
            f"{proposal_id} was not trained here: there is nothing to repeat",
            hint="proposals that a job of this workspace made can be reproduced",
        )
    trained_on = proposal.environment.get(GPU, "")
    model = _on_a_like_device(model, proposal_id, trained_on)
    recipe = Recipe(proposal.technique, dict(proposal.recipe), learner)
    with job_folder(bench) as folder:
        _lay_out(bench.gate.store.get_bytes(proposal.data), folder / "data")
        intent = training.intent_of(model.name, proposal.technique, proposal.seed)
        request = training.order(model, recipe, proposal.seed, proposal.champion, intent)
        # How many rows are learnt from at once follows from it; where a record says nothing, it was all of them.
        request["memory_bytes"] = int(proposal.environment.get("memory_bytes", "0"))
        outcome, staged = training.train(bench, model, recipe, folder, request, report)
        try:
            training.take_bundle(folder)
        except BundleError as error:
            raise command_learner.refused_bundle(error, outcome) from None
        if training.has_adapter(folder):
            training.merge(bench, model, folder, proposal.champion, report)
        made = listed(folder / "bundle")
        stored = bench.gate.store.tree(proposal.bundle)
        here = provenance(training.limited(model, recipe), outcome, staged) | orders.ordered(
            recipe, model.kind
        )
        return Reproduction(
            proposal=proposal_id,
            recorded=proposal.bundle,
            made=digest(encode_manifest(made)),
            files=tuple(sorted({entry.path for entry in set(made) ^ set(stored)})),
            differs=_differences(proposal, here | {"isolation": outcome.level}),
            gpu=trained_on,
        )


def _on_a_like_device(model: ModelConfig, proposal_id: str, trained_on: str) -> ModelConfig:
    """The model with a GPU where one trained the proposal, and without one where none did."""
    if not trained_on:
        return replace(model, gpu=None)
    if model.gpu is None:
        raise UsageError(
            f"{proposal_id} was trained on a GPU ({trained_on}), and [models.{model.name}] names none",
            hint="gpu = 0 there repeats it on this machine's first; other bytes may come out all the same",
        )
    training.require_gpu(model)
    return model


def listed(folder: Path) -> list[TreeEntry]:
    """The files of a bundle as the store lists them."""
    return [
        TreeEntry(path.relative_to(folder).as_posix(), path.stat().st_size, digest_file(path).hex)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]


def _lay_out(content: bytes, folder: Path) -> None:
    """Write the recorded data as the job saw it: ``train.jsonl``, and ``answers.jsonl`` where people had answered."""
    lines = content.splitlines(keepends=True)
    count = len(lines)
    while count and _is_answer(lines[count - 1]):
        count -= 1
    folder.mkdir()
    (folder / "train.jsonl").write_bytes(b"".join(lines[:count]))
    if lines[count:]:
        (folder / ANSWERS).write_bytes(b"".join(lines[count:]))


def _is_answer(line: bytes) -> bool:
    value = json.loads(line)
    return isinstance(value, dict) and set(value) >= ANSWER_KEYS


def _differences(proposal: Proposal, here: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """What the record says of machine, versions and code, where it is not so here; older records say less."""
    recorded = proposal.environment | {"isolation": proposal.isolation}
    return {
        name: (was, here.get(name, "not there"))
        for name, was in sorted(recorded.items())
        if not name.startswith(_NOT_OF_THE_MACHINE) and here.get(name, "not there") != was
    }
