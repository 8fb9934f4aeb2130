"""Does a model write the right answer? Greedy text, compared as a whole.

Invariants:
- An answer is right where the text up to the first stop equals one of those that count; blanks around it and nothing
  else are ignored.
- No generation settings that lie beside a model have a say, and nothing is drawn at random.
- What a model writes depends on the item alone: batches have a fixed number of rows, and a width that follows from
  the row. So whether the champion was right may come from an earlier measurement.

Items are ``{"id", "prompt", "answers"}`` with the answers that count; optional ``until`` (texts at which an answer ends;
a line end unless said), ``max_tokens`` (32 unless said), ``form`` and ``categories`` as for ``choice``. Series
``written``, one row per item, for both models: ``success_*`` (0 or 1), and one column of 0 and 1 for each category.

What it cannot see: a right answer in other words, or one that comes after the stop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from guardrails.errors import InvalidInputError
from guardrails.records import Sample, Series
from sandbox.worker.probes import Item, Models, Report, Scalars
from sandbox.worker.probes.categories import category_columns
from sandbox.worker.probes.generation import likeliest, prompt_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NAME = "written"
BATCH_ROWS = 16
WIDTH_STEP = 16
LOOK_EVERY = 8  # tokens between two looks for stops
UNTIL = ("\n",)
MAX_TOKENS = 32

Row = tuple[int, ...]


def run(
    items: Sequence[Item],
    models: Models,
    seed: int,
    *,
    suite: str,
    scalars: Scalars,
    report: Report,
) -> tuple[Series, ...]:
    """Let both models answer; the champion only where it is not known already whether it is right."""
    if models.tokenizer is None:
        raise InvalidInputError(f"suite {suite}: the champion has no tokenizer")
    known = [scalars.get(NAME, item) for item in items]
    missing = [place for place, found in enumerate(known) if found is None or "success" not in found]
    total = len(items) + len(missing)
    candidate = write(
        models.candidate, models.tokenizer, items, suite, lambda done: report(done / total, suite)
    )
    asked = [items[place] for place in missing]
    fresh = write(
        models.champion,
        models.tokenizer,
        asked,
        suite,
        lambda done: report((len(items) + done) / total, suite),
    )
    for place, text in zip(missing, fresh, strict=True):
        known[place] = {"success": float(is_right(items[place], text))}
        scalars.put(NAME, items[place], {"success": float(is_right(items[place], text))})
    columns = {
        "success_candidate": tuple(
            float(is_right(item, text)) for item, text in zip(items, candidate, strict=True)
        ),
        "success_champion": tuple(found["success"] for found in known if found is not None),
    }
    names = tuple(str(item["id"]) for item in items)
    return (Series(NAME, suite, names, columns | category_columns(items)),)


def samples(items: Sequence[Item], models: Models, *, suite: str) -> tuple[Sample, ...]:
    """What each model answers."""
    if models.tokenizer is None:
        raise InvalidInputError(f"suite {suite}: the champion has no tokenizer")
    written = [
        write(model, models.tokenizer, items, suite, lambda done: None)
        for model in (models.champion, models.candidate)
    ]
    prompts = (str(item["prompt"]) for item in items)
    return tuple(Sample(suite, *row) for row in zip(prompts, *written, strict=True))


def is_right(item: Item, text: str) -> bool:
    """Whether a text, cut at its stop, is one of the answers that count."""
    return text.strip() in {answer.strip() for answer in item["answers"]}


def write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    suite: str,
    report: Callable[[float], None],
) -> list[str]:
    """What the model writes for each item, up to the first stop."""
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    rows = [_prompt(item, tokenizer, suite) for item in items]
    by_shape: dict[tuple[int, int], list[int]] = {}
    for place, (item, row) in enumerate(zip(items, rows, strict=True)):
        limit = int(item.get("max_tokens", MAX_TOKENS))
        if room is not None and len(row) + limit > room:
            raise InvalidInputError(
                f"suite {suite}: item {item['id']!r:.60} needs {len(row) + limit} tokens, the model has room for {room}"
            )
        by_shape.setdefault((-(-len(row) // WIDTH_STEP) * WIDTH_STEP, limit), []).append(place)
    found = [""] * len(items)
    done = 0
    for shape in sorted(by_shape):
        places = by_shape[shape]
        for start in range(0, len(places), BATCH_ROWS):
            some = places[start : start + BATCH_ROWS]
            batch = [rows[place] for place in some]
            stops = [tuple(items[place].get("until", UNTIL)) for place in some]
            for place, text in zip(some, _write(model, tokenizer, batch, stops, shape), strict=True):
                found[place] = text
            done += len(some)
            report(done)
    return found


def _write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch: Sequence[Row],
    stops: Sequence[tuple[str, ...]],
    shape: tuple[int, int],
) -> list[str]:
    import torch

    width, limit = shape
    full = [*batch, *[batch[-1]] * (BATCH_ROWS - len(batch))]
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in full])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in full])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    written: list[torch.Tensor] = []
    past = None
    texts: list[tuple[str, bool]] = []
    with torch.inference_mode():
        while len(written) < limit:
            output = model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=past, use_cache=True
            )  # fmt: skip
            past = output.past_key_values
            ids = likeliest(output.logits[:, -1:])
            written.append(ids)
            mask = torch.cat([mask, torch.ones_like(ids)], dim=-1)
            positions = positions[:, -1:] + 1
            if len(written) % LOOK_EVERY == 0 or len(written) == limit:
                texts = [
                    _cut(tokenizer, row, stop)
                    for row, stop in zip(torch.cat(written, -1).tolist(), stops, strict=False)
                ]
                if all(ended for _, ended in texts):
                    break
    return [text for text, _ in texts]


def _cut(tokenizer: PreTrainedTokenizerBase, row: list[int], stops: tuple[str, ...]) -> tuple[str, bool]:
    """The text up to the end that the model sets or the first stop, and whether there was one."""
    end = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
    text = str(tokenizer.decode(row[:end], skip_special_tokens=True))
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, end < len(row))


def _prompt(item: Item, tokenizer: PreTrainedTokenizerBase, suite: str) -> Row:
    prompt, answers = item.get("prompt"), item.get("answers")
    if not isinstance(prompt, str) or not isinstance(answers, list) or not answers:
        raise InvalidInputError(f"suite {suite}: item {item['id']!r:.60} needs a prompt and answers")
    if item.get("form") == "chat":
        found = tuple(prompt_ids(tokenizer, prompt))
    else:
        found = tuple(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    if not found:
        raise InvalidInputError(f"suite {suite}: item {item['id']!r:.60}: the prompt has no token")
    return found
