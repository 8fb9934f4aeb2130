"""What a measurement costs: over the bare passes of its models, beside lm-evaluation-harness, and check by check.

Prints; asserts nothing about time. All times are CPU time of this process; what is compared runs in turns in one
process, and of each the best turn counts. lm-evaluation-harness, scikit-learn and cleanlab are only compared with: where
they are not installed, their test is skipped.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from policy_cases import DEFAULT, EVIDENCE, NOW, subject
from tiny_models import copy_tiny, perturbed
from transformers import LlamaForCausalLM, LlamaModel
from trials import SECRET

from guardrails import engine
from guardrails.canonical import parse
from guardrails.codec import decode_record
from guardrails.policy import load_policy
from guardrails.records import Measurements, ModelKind
from sandbox import tasks, texts
from sandbox.config import ModelConfig
from sandbox.worker import measure as job
from sandbox.worker import weights
from sandbox.worker.data import Line, words
from sandbox.worker.probes import (
    Models,
    Scalars,
    choice,
    distribution,
    likelihood,
    load_probe,
    personal_data,
    record_labels,
    records_quality,
)
from sandbox.worker.probes.generation import NEW_TOKENS

pytestmark = pytest.mark.benchmark
TURNS = 3
ITEMS = 220  # as the shipped configuration measures its language model
BATCH_TOKENS = 1024
CONTROLS = {"control-kjv": "shipped:kjv", "control-austen": "shipped:austen"}


def in_turns(**runs: Callable[[], Any]) -> dict[str, float]:
    """Seconds of CPU time of each, the best of ``TURNS``, after one turn that does not count."""
    best = dict.fromkeys(runs, float("inf"))
    for turn in range(TURNS + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if turn:
                best[name] = min(best[name], time.process_time() - start)
    return best


def say(capsys: Any, *lines: str) -> None:
    with capsys.disabled():
        print("", *lines, sep="\n")


@pytest.fixture(scope="module")
def request_(tmp_path_factory: Any) -> dict[str, Any]:
    """A request as a round of the shipped configuration makes it, for tiny."""
    folder = tmp_path_factory.mktemp("job")
    learnt = ("shipped:devils-dictionary",)
    model = ModelConfig("tiny", ModelKind.LLM, "shipped:tiny", (), learnt, CONTROLS, items=ITEMS)
    records = tasks.training_records(model, folder, SECRET)
    for name in ("data", "pool"):
        tasks.write_items(records, folder / name / "train.jsonl")
    suites = {}
    for suite in tasks.private_suites(model, folder, SECRET, "nonce"):
        path = folder / "items" / f"{suite.name}.jsonl"
        tasks.write_items(suite.items, path)
        suites[suite.name] = {"probe": suite.probe, "path": str(path)}
    champion = str(copy_tiny(folder / "champion"))
    return {
        "kind": "llm", "candidate": str(perturbed(folder / "candidate")), "champion": champion, "original": champion,
        "suites": suites, "data": str(folder / "data"), "pool": str(folder / "pool"), "samples": 6, "seed": 7,
        "out": str(folder / "out"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def models(request_: dict[str, Any]) -> Models:
    weights.prepare_runtime()
    champion, dtype = Path(request_["champion"]), weights.compute_dtype("auto")
    before = weights.load_model(champion, dtype)
    after = weights.load_model(Path(request_["candidate"]), dtype)
    return Models(after, before, before, weights.load_tokenizer(champion), ModelKind.LLM)


class Passes:
    """CPU time that the models' own forward passes take, whoever asks for them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds, self._depth = 0.0, 0
        for kind in (LlamaForCausalLM, LlamaModel):
            monkeypatch.setattr(kind, "forward", self._timed(kind.forward))

    def _timed(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*values: Any, **named: Any) -> Any:
            self._depth += 1
            start = time.process_time()
            try:
                return forward(*values, **named)
            finally:
                self._depth -= 1
                if not self._depth:  # one of them calls the other
                    self.seconds += time.process_time() - start

        return timed


def _plain_passes(rows: list[list[int]], models: Models) -> None:
    """Both models read all rows, like lengths together."""
    batch: list[list[int]] = []
    for row in [*sorted(rows, key=len), []]:
        if batch and (not row or (len(batch) + 1) * len(row) > BATCH_TOKENS):
            width = len(batch[-1])
            ids = torch.tensor([[*one, *[0] * (width - len(one))] for one in batch])
            with torch.inference_mode():
                for model in (models.champion, models.candidate):
                    model(input_ids=ids, use_cache=False)
            batch = []
        batch.append(row)


def _plain_writing(prompts: list[list[int]], models: Models) -> None:
    """Both models go on from each prompt, greedily, one prompt at a time."""
    for model, prompt in itertools.product((models.champion, models.candidate), prompts):
        ids, past = torch.tensor([prompt]), None
        with torch.inference_mode():
            for _ in range(NEW_TOKENS):
                output = model(input_ids=ids, past_key_values=past, use_cache=True)
                ids, past = output.logits[:, -1:].argmax(-1), output.past_key_values


def test_a_measurement_and_its_verdict(
    request_: dict[str, Any], models: Models, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job whole and its probes alone, over the passes that it makes and over plain ones on the same tokens."""
    suites = job.read_suites(request_["suites"])
    assert models.tokenizer is not None
    rows: list[list[int]] = []
    for suite in suites:
        if suite.probe == "distribution":
            coded = distribution.encode_items(models.tokenizer, suite.items, suite.name)
            rows += [list(item.ids) for item in coded]
            continue
        for item in suite.items:
            answers = [str(item["comply"]), str(item["refuse"])]
            asked = likelihood.encode(item, answers, models.tokenizer, suite.name, chat=True)
            rows += [[*asked.prompt, *answer] for answer in asked.answers]
    prompts = [row[: distribution.PROMPT_TOKENS] for row in rows[:: len(rows) // request_["samples"]]]
    prompts = prompts[: request_["samples"]]
    policy = load_policy(DEFAULT)
    passes, made = Passes(monkeypatch), []

    def probes() -> None:
        passes.seconds, quiet = 0.0, (lambda share, stage: None)
        for suite in suites:
            load_probe(suite.probe)(suite.items, models, 7, suite=suite.name, scalars=Scalars(), report=quiet)
        job._sample(suites, models, 7, request_["samples"])
        made.append(passes.seconds)

    def verdict() -> None:
        measured = (Path(request_["out"]) / "measurements.json").read_bytes()
        found = decode_record(Measurements, parse(measured))
        case = engine.Case(
            subject(labels={"task": "text"}), found, EVIDENCE, {"compute.cpu_seconds": "1"}, (), 1, NOW
        )
        assert engine.judge([policy], case).findings

    def bare() -> None:
        _plain_passes(rows, models)
        _plain_writing(prompts, models)

    took = in_turns(bare=bare, probes=probes, job=lambda: job.measure(request_), verdict=verdict)
    inside = min(made[1:])
    say(
        capsys,
        f"plain passes over {sum(map(len, rows)):,} tokens and {len(prompts)} texts written, two models: "
        f"{took['bare']:.2f} s",
        f"passes that the probes made (what a prompt's answers share is read once): {inside:.2f} s",
        f"probes and samples: {took['probes']:.2f} s, {took['probes'] / inside:.2f} of their own passes, "
        f"{took['probes'] / took['bare']:.2f} of the plain ones",
        f"the whole job, loading, integrity and records with it: {took['job']:.2f} s, "
        f"{took['job'] / inside:.2f} and {took['job'] / took['bare']:.2f}",
        f"judged by default.yaml: {took['verdict']:.2f} s; measured and judged: {took['job'] + took['verdict']:.2f} s",
    )


def questions(count: int) -> list[dict[str, Any]]:
    """Which of four pieces of the same book goes on from a passage."""
    found = []
    verses = [record["text"].split() for record in texts.load("kjv")]
    verses = [verse for verse in verses if len(verse) >= 24][: count + 3]
    for number in range(count):
        ends = [" " + " ".join(verse[16:24]) for verse in verses[number : number + 4]]
        answer = number % 4
        ends[0], ends[answer] = ends[answer], ends[0]
        prompt = " ".join(verses[number][:16])
        found.append({"id": f"q{number}", "prompt": prompt, "choices": ends, "answer": answer})
    return found


def test_beside_lm_evaluation_harness(
    models: Models, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both models on the same multiple-choice items; its task and its data are loaded before the clock runs."""
    for name in ("HF_HOME", "HF_DATASETS_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    pytest.importorskip("lm_eval")
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    items = questions(ITEMS)
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (tmp_path / "task.yaml").write_text(
        f"""\
task: ends
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path / "items.jsonl"}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: choices
doc_to_target: answer
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""
    )
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    task = manager.load_task_or_group(["ends"])
    harness = {
        (name, rows): HFLM(pretrained=model, tokenizer=models.tokenizer, batch_size=rows, device="cpu")
        for name, model in (("champion", models.champion), ("candidate", models.candidate))
        for rows in (16, 64)
    }
    accuracy: dict[str, float] = {}

    def theirs(rows: int) -> None:
        for name in ("champion", "candidate"):
            found = evaluator.evaluate(harness[name, rows], task, bootstrap_iters=0, log_samples=False)
            accuracy[name] = found["results"]["ends"]["acc,none"]

    def ours(scalars: Scalars) -> Any:
        return choice.run(items, models, 7, suite="ends", scalars=scalars, report=lambda share, stage: None)

    known = Scalars()
    (series,) = ours(known)
    took = in_turns(
        theirs_16=lambda: theirs(16), theirs_64=lambda: theirs(64), cold=lambda: ours(Scalars()),
        cached=lambda: ours(Scalars(known=known.fresh)),
    )  # fmt: skip
    for name, share in accuracy.items():
        assert sum(series.columns[f"success_{name}"]) / len(items) == pytest.approx(share), name
    least = min(took["theirs_16"], took["theirs_64"])
    say(
        capsys,
        f"{len(items)} questions of 4 choices, two models, equal scores ({accuracy}):",
        f"lm-evaluation-harness {took['theirs_16']:.2f} s in batches of 16, {took['theirs_64']:.2f} s of 64",
        f"cold {took['cold']:.2f} s, {least / took['cold']:.2f} times as fast; "
        f"champion known {took['cached']:.2f} s, {least / took['cached']:.2f} times",
    )


def records() -> list[Line]:
    """The three shipped texts; of every twentieth record a copy with one word less, and labels by book."""
    found = []
    for book in ("devils_dictionary", "kjv", "austen"):
        for number, record in enumerate(texts.load(book)[:600]):
            found.append(Line(f"{book}:{number}", record | {"label": book}))
            if number % 20 == 0:
                shorter = record["text"].rsplit(" ", 1)[0]
                found.append(Line(f"{book}:copy{number}", record | {"label": book, "text": shorter}))
    return found


def test_near_duplicates_over_datasketch(capsys: Any) -> None:
    from datasketch import MinHash, MinHashLSH

    lines = records()
    rows = [
        [f"{a} {b} {c}".encode() for a, b, c in zip(row, row[1:], row[2:], strict=False)] or [b"-"]
        for row in (words(line.text) for line in lines)
    ]

    def bare() -> None:
        index = MinHashLSH(
            threshold=records_quality.LIKE, num_perm=records_quality.PERMUTATIONS, weights=(0.1, 0.9)
        )
        for number, row in enumerate(rows):
            sketch = MinHash(num_perm=records_quality.PERMUTATIONS)
            sketch.update_batch(row)
            if not index.query(sketch):
                index.insert(number, sketch)

    def whole() -> None:
        """With the words and runs of words, which the library does not make."""
        for line in lines:
            row = words(line.text)
            _ = [f"{a} {b} {c}".encode() for a, b, c in zip(row, row[1:], row[2:], strict=False)]
        bare()

    assert len(records_quality.near_duplicates(lines)) >= 80
    took = in_turns(bare=bare, whole=whole, ours=lambda: records_quality.families(lines))
    say(
        capsys,
        f"near-duplicates of {len(lines)} records: {took['ours']:.2f} s, {took['ours'] / took['bare']:.2f} of datasketch "
        f"given the runs of words, {took['ours'] / took['whole']:.2f} with their making",
    )


def test_secrets_and_personal_data_over_their_scanners(capsys: Any) -> None:
    from detect_secrets.core.scan import scan_line
    from detect_secrets.settings import transient_settings

    lines = records()
    names = (*records_quality.SECRET_PLUGINS, *records_quality.KEYWORD_PLUGINS)
    plugins = {"plugins_used": [{"name": name} for name in names]}

    def bare() -> None:
        with transient_settings(plugins):
            for line in lines:
                for row in line.text.splitlines():
                    list(scan_line(row))

    patterns = [pattern for _, pattern, _ in personal_data._FORMS]

    def forms() -> None:
        for line in lines:
            for pattern in patterns:
                list(pattern.finditer(line.text))

    def find() -> None:
        for line in lines:
            list(personal_data.find(line.text))

    took = in_turns(
        bare=bare, secrets=lambda: records_quality.with_secrets(lines), forms=forms, personal=find
    )
    say(
        capsys,
        f"secrets in {len(lines)} records: {took['secrets']:.2f} s, {took['secrets'] / took['bare']:.2f} of detect-secrets",
        f"personal data: {took['personal']:.3f} s, {took['personal'] / took['forms']:.2f} of its bare expressions",
    )


def test_label_errors_over_cleanlab(capsys: Any) -> None:
    """The library is given what it asks for, probabilities out of fold, by the classifier most used for it."""
    pytest.importorskip("cleanlab")
    from cleanlab.filter import find_label_issues
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.model_selection import cross_val_predict
    from sklearn.naive_bayes import MultinomialNB

    lines = records()
    names = sorted({str(line.value["label"]) for line in lines})
    given = [names.index(str(line.value["label"])) for line in lines]

    def bare() -> None:
        counts = CountVectorizer().fit_transform([line.text for line in lines])
        chances = cross_val_predict(
            MultinomialNB(), counts, given, cv=record_labels.FOLDS, method="predict_proba"
        )
        find_label_issues(given, chances, n_jobs=1)

    took = in_turns(bare=bare, ours=lambda: record_labels.label_errors(lines))
    say(
        capsys,
        f"label errors of {len(lines)} records: {took['ours']:.2f} s, {took['ours'] / took['bare']:.2f} of cleanlab "
        "with scikit-learn's naive Bayes",
    )
