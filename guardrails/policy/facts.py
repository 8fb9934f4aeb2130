"""The facts that a rule's ``when`` may read, and nothing else.

Invariants: every fact was established by the gate; none is a claim of the proposal. The intent is
not here because it is free text that can be erased later, and a verdict must stay recomputable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from guardrails.canonical import Digest
from guardrails.records import Evidence, ModelKind, Proposal

FACTS: dict[str, str] = {
    "model.name": "text: the model's name in this workspace",
    "model.kind": "text: 'llm' or 'lam'",
    "model.task": "text: what it was adopted for: 'text', 'lava', or what its label 'task' says",
    "model.labels": "map of text to text: what `model add --label` gave; test with 'x' in model.labels",
    "proposal.technique": "text: the learner that made it; 'submitted' where it was trained elsewhere",
    "proposal.submitted": "boolean: true where it was trained elsewhere",
    "proposal.seed": "integer: the seed that the learner was given",
    "proposal.isolation": "text: the level that the learner's job really ran at",
    "proposal.proposer": "text: 'loop' or the id of the person who asked for it",
}

TASK_FACT = "model.task"
TASK_LABEL = "task"
"""The label that a root signs for, where a model is adopted for another task than the first one of its kind."""

_FIRST_TASK = {ModelKind.LLM: "text", ModelKind.LAM: "lava"}


def label_of_task(kind: ModelKind, task: str) -> dict[str, str]:
    """The label that a model of this task is adopted with: none for the first task of its kind."""
    return {} if task == _FIRST_TASK[kind] else {TASK_LABEL: task}


def adopted_task(kind: ModelKind, labels: Mapping[str, str]) -> str:
    """The task that a model was adopted for, by the labels that a root signed for."""
    return labels.get(TASK_LABEL, _FIRST_TASK[kind])


@dataclass(frozen=True)
class Subject:
    """What is being judged, as the gate knows it.

    ``measured_at`` is the isolation level of the measurement; "" where nothing was measured.
    """

    proposal: str
    model: str
    kind: ModelKind
    bundle: Digest
    technique: str
    submitted: bool
    seed: int
    isolation: str
    proposer: str
    measured_at: str
    labels: Mapping[str, str]

    @classmethod
    def of(cls, proposal: Proposal, labels: Mapping[str, str], evidence: Evidence | None) -> Subject:
        """The subject of a proposal, its model's labels and the evidence on it."""
        return cls(
            proposal=proposal.id,
            model=proposal.model,
            kind=proposal.kind,
            bundle=proposal.bundle,
            technique="submitted" if proposal.submitted else proposal.technique,
            submitted=proposal.submitted,
            seed=proposal.seed,
            isolation=proposal.isolation,
            proposer=proposal.proposer,
            measured_at=evidence.isolation if evidence else "",
            labels=labels,
        )

    @property
    def task(self) -> str:
        """What the model was adopted for. A configuration cannot change it, so it cannot choose among rules."""
        return adopted_task(self.kind, self.labels)

    def facts(self) -> dict[str, Any]:
        """The values behind the names in FACTS."""
        return {
            "model": {
                "name": self.model,
                "kind": self.kind.value,
                "task": self.task,
                "labels": dict(self.labels),
            },
            "proposal": {
                "technique": "submitted" if self.submitted else self.technique,
                "submitted": self.submitted,
                "seed": self.seed,
                "isolation": self.isolation,
                "proposer": self.proposer,
            },
        }
