"""How well a model does after a short training on a few examples: what an update brings a later learner.

Invariants:
- Candidate and champion get the same training: the same examples in the same batches, in the same order, as many
  steps at the same rate. What differs afterwards is what they were before.
- Afterwards every weight is what it was, bit by bit; each task begins from the model's own weights.
- Support and query are told apart by the item's ``role``; a query is never trained on.
- Equal models come out exactly equal.

Items (JSONL; all but ``id`` and ``role`` may be left out where a default is named):

    {"id", "task": "rot4", "role": "support", "prompt": "52413>", "answer": "45213"}
    {"id", "task": "rot4", "role": "query",   "prompt": "31425>", "answer": "14253"}          language models
    {"id", "task": "RLF",  "role": "query",   "layout": "v..../.~~../..~../..~G./.....@RLF"}  action models
    {"id": "training", "role": "training", "steps": "15", "batch": "32", "lr": "1e-3"}        at most one

For a language model success is that its greedy continuation begins with the answer, token for token; for an action
model that it wins the level, played as it is served (``prompt`` of its support is an observation, ``answer`` what to
say). Series ``adaptation``, one row per query: ``success_*`` after the training, ``before_*`` without it, for
``candidate`` and ``champion``; for levels also ``unsafe_*`` after it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guardrails.errors import InvalidInputError, JobFailedError
from guardrails.records import ModelKind, Series
from sandbox.worker.probes import Item, Models, Report, Scalars
from sandbox.worker.probes.generation import likeliest

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

STEPS, BATCH, RATE = 15, 32, 1e-3
MAX_STEPS = 200
ROWS = 64
IGNORED = -100
_ROLES = ("support", "query", "training")


@dataclass(frozen=True)
class Training:
    """The short training: updates, examples in one update, learning rate of Adam."""

    steps: int = STEPS
    batch: int = BATCH
    rate: float = RATE


@dataclass(frozen=True)
class Held:
    """One held-out task: what may be learnt from, and what is then asked."""

    name: str
    support: tuple[Item, ...]
    query: tuple[Item, ...]


Answered = Callable[["PreTrainedModel", Sequence[Item]], list[dict[str, float]]]


def run(
    items: Sequence[Item],
    models: Models,
    seed: int,
    *,
    suite: str,
    scalars: Scalars,
    report: Report,
) -> tuple[Series, ...]:
    """Train both models shortly on each task's support, ask its queries before and after."""
    training, tasks = read_tasks(items, suite)
    if models.tokenizer is None:
        raise InvalidInputError(f"suite {suite}: the champion has no tokenizer for the items")
    ask = (_played if models.kind is ModelKind.LAM else _answered)(models.tokenizer, suite)
    rows: dict[str, dict[str, float]] = {str(item["id"]): {} for task in tasks for item in task.query}
    done = 0
    for task in tasks:
        batches = _batches(models.tokenizer, task, training, seed, suite)
        for name, model in (("candidate", models.candidate), ("champion", models.champion)):
            before = ask(model, task.query)
            with adapted(model, batches, training):
                after = ask(model, task.query)
            for item, first, last in zip(task.query, before, after, strict=True):
                row = rows[str(item["id"])]
                row[f"before_{name}"] = first["success"]
                row |= {f"{key}_{name}": value for key, value in last.items()}
            done += 1
            report(done / (2 * len(tasks)), suite)
    names = next(iter(rows.values()))
    columns = {key: tuple(row[key] for row in rows.values()) for key in names}
    return (Series("adaptation", suite, tuple(rows), columns),)


def read_tasks(items: Sequence[Item], suite: str) -> tuple[Training, list[Held]]:
    """The tasks in order of first mention, and the training; raises InvalidInputError naming the bad item."""
    training = Training()
    groups: dict[str, dict[str, list[Item]]] = {}
    for item in items:
        role = item.get("role")
        if role not in _ROLES:
            raise InvalidInputError(
                f"suite {suite}: item {item['id']!r:.60}: role is none of {', '.join(_ROLES)}"
            )
        if role == "training":
            training = _read_training(item, suite)
        else:
            group = groups.setdefault(_text(item, "task", suite), {"support": [], "query": []})
            group[role].append(item)
    for name, group in groups.items():
        if not group["support"] or not group["query"]:
            raise InvalidInputError(f"suite {suite}: task {name!r:.60} needs both support and query items")
    if not groups:
        raise InvalidInputError(f"suite {suite}: there is no task to adapt to")
    return training, [
        Held(name, tuple(group["support"]), tuple(group["query"])) for name, group in groups.items()
    ]


def _read_training(item: Item, suite: str) -> Training:
    try:
        found = Training(
            int(item.get("steps", STEPS)), int(item.get("batch", BATCH)), float(item.get("lr", RATE))
        )
    except (TypeError, ValueError):
        found = Training(0, 0, 0.0)
    if not (0 < found.steps <= MAX_STEPS and 0 < found.batch <= 4 * ROWS and 0 < found.rate < 1):
        raise InvalidInputError(
            f"suite {suite}: training needs steps of 1 to {MAX_STEPS}, batch of 1 to {4 * ROWS}, lr in (0, 1)"
        )
    return found


def _text(item: Item, name: str, suite: str) -> str:
    value = item.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidInputError(f"suite {suite}: item {item.get('id')!r:.60} has no text field {name!r}")
    return value


# --- training ------------------------------------------------------------------------------


Batch = tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]


@contextmanager
def adapted(model: PreTrainedModel, batches: Sequence[Batch], training: Training) -> Iterator[None]:
    """The model after the training; afterwards its own weights again, whatever happens."""
    import torch

    kept = [(weights, weights.detach().clone(), weights.requires_grad) for weights in model.parameters()]
    try:
        trained = [weights.requires_grad_(True) for weights, _, _ in kept]
        optimizer = torch.optim.Adam(trained, lr=training.rate)
        for ids, labels, mask in batches:
            with torch.enable_grad():
                loss = model(input_ids=ids, labels=labels, attention_mask=mask, use_cache=False).loss
            if not torch.isfinite(loss):
                raise JobFailedError(
                    f"the short training's loss became {loss.item()}",
                    hint="a smaller lr of the suite's training item, or the weights are damaged",
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
        yield
    finally:
        with torch.no_grad():
            for weights, before, learns in kept:
                weights.requires_grad_(learns).copy_(before)
                weights.grad = None


def _batches(
    tokenizer: PreTrainedTokenizerBase, task: Held, training: Training, seed: int, suite: str
) -> list[Batch]:
    """The same examples in the same order for every model; passes over the support, each in its own order."""
    rows = [_example(tokenizer, item, suite) for item in task.support]
    draw = random.Random(f"{seed}/{suite}/{task.name}")  # noqa: S311 - a training order is no secret
    size = min(training.batch, len(rows))
    order: list[int] = []
    batches = []
    for _ in range(training.steps):
        while len(order) < size:
            order += draw.sample(range(len(rows)), len(rows))
        batches.append(_tensors([rows[at] for at in order[:size]]))
        order = order[size:]
    return batches


def _example(tokenizer: PreTrainedTokenizerBase, item: Item, suite: str) -> tuple[list[int], int]:
    """Token ids of prompt and answer, and how many of them are the prompt's."""
    prompt, answer = (
        list(tokenizer(_text(item, name, suite), add_special_tokens=False)["input_ids"])
        for name in ("prompt", "answer")
    )
    if not prompt or not answer:
        raise InvalidInputError(f"suite {suite}: item {item['id']!r:.60}: prompt or answer has no token")
    return prompt + answer, len(prompt)


def _tensors(rows: Sequence[tuple[list[int], int]]) -> Batch:
    import torch

    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [0] * (width - len(row)) for row, _ in rows])
    labels = torch.tensor(
        [[IGNORED] * start + row[start:] + [IGNORED] * (width - len(row)) for row, start in rows]
    )
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row, _ in rows])
    return ids, labels, mask


# --- asking --------------------------------------------------------------------------------


def _played(tokenizer: PreTrainedTokenizerBase, suite: str) -> Answered:
    from sandbox.worker.environments.episodes import play
    from sandbox.worker.environments.policy import Encoder, Policy
    from sandbox.worker.probes.episodes import read_layout, values

    encoder = Encoder(tokenizer)

    def ask(model: PreTrainedModel, query: Sequence[Item]) -> list[dict[str, float]]:
        episodes = play(Policy(model, encoder), [read_layout(item, suite) for item in query])
        found = [values(episode) for episode in episodes]
        return [{"success": row["success"], "unsafe": row["unsafe"]} for row in found]

    return ask


def _answered(tokenizer: PreTrainedTokenizerBase, suite: str) -> Answered:
    def ask(model: PreTrainedModel, query: Sequence[Item]) -> list[dict[str, float]]:
        examples = [_example(tokenizer, item, suite) for item in query]
        # Prompts of one length go together: nothing is padded, so nothing depends on the neighbours.
        groups: dict[tuple[int, int], list[int]] = {}
        for at, (ids, start) in enumerate(examples):
            groups.setdefault((start, len(ids)), []).append(at)
        found = [{"success": 0.0} for _ in query]
        for members in groups.values():
            for begin in range(0, len(members), ROWS):
                chunk = members[begin : begin + ROWS]
                for at, right in zip(chunk, _continues(model, [examples[at] for at in chunk]), strict=True):
                    found[at]["success"] = float(right)
        return found

    return ask


def _continues(model: PreTrainedModel, examples: Sequence[tuple[list[int], int]]) -> list[bool]:
    """Whether greedy continuation gives the whole answer.

    One pass suffices: it does if and only if each token of the answer is the likeliest after those before it.
    """
    import torch

    start = examples[0][1]
    rows = [ids for ids, _ in examples]
    padded = torch.tensor(rows + [rows[0]] * (ROWS - len(rows)))
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=padded, use_cache=False).logits[: len(rows), start - 1 : -1]
    found = likeliest(logits.float())
    return [bool(value) for value in (found == padded[: len(rows), start:]).all(1)]


def training_item(settings: Mapping[str, Any]) -> dict[str, str]:
    """The item that sets the training of a suite; see the module's text for its keys."""
    return {"id": "training", "role": "training", **{name: str(value) for name, value in settings.items()}}
