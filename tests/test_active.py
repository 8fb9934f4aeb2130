"""sandbox.worker.learners.active.texts: what it asks, that it trains on answers only, and what it refuses."""

import json
from pathlib import Path

import pytest
import trials

from guardrails.errors import InvalidInputError
from guardrails.records import ModelKind
from sandbox.config import Recipe
from sandbox.isolation.questions import parse_questions
from sandbox.models import pupil
from sandbox.orders import ordered
from sandbox.worker import weights
from sandbox.worker.environments.skills import parse_skill
from sandbox.worker.learners import Order
from sandbox.worker.learners.active import texts
from sandbox.worker.questions import question_id

SORT = parse_skill("sort")
DIGITS = [f"{number:05d}" for number in range(10_007, 99_999, 1_499)]
QUICK = {"ask": "8", "steps": "2", "batch": "4", "rehearsed": "4"}


@pytest.fixture(scope="module")
def champion(tmp_path_factory):
    return trials.model_files(pupil.locate(), tmp_path_factory.mktemp("pupil") / "model")


class Job:
    """One order to the learner in a folder of its own."""

    def __init__(self, folder: Path, champion: Path) -> None:
        self.folder, self.champion = folder, champion
        records = [
            {"id": d, "prompt": SORT.prompt(d), "answer": "never looked at", "text": "x"} for d in DIGITS
        ]
        self.write("train", records)
        self.count = 0

    def write(self, name, records):
        (self.folder / "data").mkdir(exist_ok=True)
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (self.folder / "data" / f"{name}.jsonl").write_text(lines)

    def answer(self, *digits, fresh=True, **fields):
        answers = [
            {
                "id": question_id(SORT.prompt(d)), "kind": "answer", "prompt": SORT.prompt(d), "options": [],
                "answer": SORT.answer(d), "chosen": -1, "skipped": False, "fresh": fresh, "origin": "person", **fields,
            }
            for d in digits
        ]  # fmt: skip
        self.write("answers", answers)

    def __call__(self, seed=1, **recipe):
        self.count += 1
        out = self.folder / f"out-{self.count}"
        out.mkdir()
        claims = texts.learn(
            Order(
                ModelKind.LLM,
                self.champion,
                self.folder / "data",
                out,
                {**QUICK, **recipe},
                seed,
                lambda *a, **k: None,
            )
        )
        return out, claims

    def asked(self, seed=1, **recipe):
        out, claims = self(seed, **recipe)
        assert claims == {}
        assert [path.name for path in out.iterdir()] == ["questions.jsonl"]
        return list(parse_questions((out / "questions.jsonl").read_bytes()))


@pytest.fixture
def job(tmp_path, champion):
    return Job(tmp_path, champion)


def test_it_asks_about_what_it_is_least_sure_of(job):
    everything = job.asked(ask="60")
    least = job.asked(ask="8")
    assert [one.id for one in least] == [one.id for one in everything][:8]
    unsure = [one.uncertainty for one in everything]
    assert unsure == sorted(unsure, reverse=True)
    assert unsure[0] > unsure[-1] > 0
    assert all(one.id == question_id(one.prompt) for one in everything)
    assert "it would say" in least[0].why


def test_its_uncertainty_is_of_its_own_answer(job, champion):
    """Against the model itself, token by token, without a cache."""
    import torch

    (asked, *_) = job.asked(ask="1")
    tokenizer, model = weights.load_tokenizer(champion), weights.load_model(champion, torch.float32).eval()
    ids, chance = tokenizer(asked.prompt, add_special_tokens=False, return_tensors="pt")["input_ids"], 1.0
    while ids[0, -1] != tokenizer.eos_token_id and ids.shape[1] < 30:
        with torch.inference_mode():
            likely, token = model(ids).logits[0, -1].softmax(-1).max(-1)
        chance *= float(likely)
        ids = torch.cat([ids, token[None, None]], dim=1)
    assert asked.uncertainty == pytest.approx(1 - chance, abs=0.02)


def test_random_questions_are_others_and_follow_from_the_seed(job):
    one, same, other = (job.asked(seed, query="random") for seed in (1, 1, 2))
    assert one == same
    assert {q.id for q in one} != {q.id for q in other}
    assert {q.id for q in one} != {q.id for q in job.asked()}


def test_nothing_is_asked_twice_not_even_what_was_skipped(job):
    first = job.asked(ask="8")
    known = [one.prompt.removesuffix(">") for one in first]
    job.answer(*known, fresh=False)
    again = job.asked(ask="8")
    assert not {one.id for one in first} & {one.id for one in again}
    job.answer(*known, skipped=True)
    assert [one.id for one in job.asked(ask="8")] == [one.id for one in again], "skipped is not trained on"
    job.answer(*DIGITS, fresh=False)
    with pytest.raises(InvalidInputError, match="every prompt there is"):
        job()


def test_answers_are_trained_on_all_of_them_and_nothing_else(job):
    job.answer(*DIGITS[:6])
    out, claims = job()
    assert not (out / "questions.jsonl").exists()
    records = [json.loads(line) for line in (out / "data" / "answers.jsonl").read_text().splitlines()]
    assert {record["origin"] for record in records} == {"person"}
    assert [record["text"] for record in records] == [f"{d}>{SORT.answer(d)}" for d in DIGITS[:6]]
    assert (claims["records"], claims["steps"]) == ("6", "2")
    assert (out / "model" / "adapter_config.json").exists()


def test_the_same_answers_make_the_same_bytes(job):
    job.answer(*DIGITS[:6])
    made = [(job(seed)[0] / "model" / "adapter_model.safetensors").read_bytes() for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2]


def test_a_record_that_is_there_for_replay_is_not_asked_about(job):
    job.write("train", [{"id": "a", "prompt": "12345=", "replay": "copy"}, {"id": "b", "prompt": "21345>"}])
    assert [one.prompt for one in job.asked()] == ["21345>"]


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ({"query": "guess"}, "query"),
        ({"ask": "0"}, "from 1 to 200"),
        ({"ask": "201"}, "from 1 to 200"),
        ({"lr": "nan"}, "above 0"),
        ({"keep": "-1"}, "from 0 to 1000"),
        ({"warmup": "2"}, "from 0 to 1"),
        ({"labels": "3"}, "unknown key"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(job, recipe, reason):
    with pytest.raises(InvalidInputError, match=reason):
        job(**recipe)


def test_data_without_prompts_are_refused(job):
    job.write("train", [{"id": "a", "text": "only text"}])
    with pytest.raises(InvalidInputError, match="field prompt"):
        job()


def test_what_it_was_ordered_to_do_claims_no_tokens_that_nobody_can_know():
    lines = ordered(Recipe("active", {}), ModelKind.LLM)
    assert "recipe.objective" in lines
    assert "recipe.tokens" not in lines, "how long an answer is, people decide"
