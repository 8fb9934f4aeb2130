"""Reinforcement of language models: rewards, sampling, choices, and what each method writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guardrails.canonical import digest_file
from guardrails.errors import InvalidInputError, JobFailedError
from guardrails.records import ModelKind
from sandbox.models import pupil
from sandbox.worker import merge, weights
from sandbox.worker.data import read_lines, write_records
from sandbox.worker.environments.skills import parse_skill
from sandbox.worker.learners import Order, forms, load_learner
from sandbox.worker.learners.language import policy_gradient, preference, rehearsal, sampling
from sandbox.worker.learners.language.pairs import IGNORED
from sandbox.worker.learners.language.rewards import REWARDS, reward_of
from sandbox.worker.learners.language.updates import Updates
from sandbox.worker.learners.memory import Plan

CHAMPION = pupil.locate()
SHORT = {"steps": "2", "prompts": "4", "group": "4"}
WORDS = st.text(alphabet="0123456789", max_size=7)


def task(folder: Path, recipe: dict[str, str], answers: list[dict] | None = None, **given) -> Order:
    """An order to learn from forty puzzles in a new folder."""
    skill = parse_skill("sort")
    digits = [f"{number:05d}" for number in range(90210, 90250)]
    records = [
        {"id": d, "prompt": skill.prompt(d), "answer": skill.answer(d), "text": skill.prompt(d)}
        for d in digits
    ]
    write_records(folder / "data" / "train.jsonl", given.get("records", records))
    if answers:
        write_records(folder / "data" / "answers.jsonl", answers)
    out = folder / "out"
    out.mkdir()
    return Order(
        ModelKind.LLM, CHAMPION, folder / "data", out, recipe, given.get("seed", 7), lambda *a, **k: None
    )


def learn(folder: Path, recipe: dict[str, str], **given) -> dict[str, str]:
    return load_learner("reinforcement", ModelKind.LLM)(task(folder, recipe, **given))


def digests(folder: Path) -> dict[str, str]:
    return {p.name: str(digest_file(p)) for p in sorted((folder / "out").rglob("*")) if p.is_file()}


# --- rewards ---------------------------------------------------------------------------------


@given(said=WORDS, answer=WORDS.filter(bool), name=st.sampled_from(sorted(REWARDS)))
def test_a_reward_is_a_share_and_whole_only_for_the_right_answer(said, answer, name):
    value = reward_of(name)(said, answer)
    assert 0 <= value <= 1
    assert (value == 1) == (said == answer)


def test_more_right_places_earn_more_and_length_earns_nothing():
    reward = reward_of("places")
    assert reward("12354", "12345") == pytest.approx(0.3)
    assert (
        reward("12345", "12345") > reward("12354", "12345") > reward("21543", "12345") > reward("", "12345")
    )
    assert reward("1234599999", "12345") < reward("12345", "12345") / 2
    with pytest.raises(InvalidInputError, match="one of places, exact"):
        reward_of("nice")


# --- sampling --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return weights.load_model(CHAMPION, torch.float32)


@pytest.fixture(scope="module")
def tokenizer():
    return sampling.load_tokenizer(CHAMPION)


def test_what_is_said_is_scored_as_it_was_drawn_wherever_padding_stands(model, tokenizer):
    rows = [tokenizer(text)["input_ids"] for text in ("52413>", "13=", "9")]
    end = tokenizer.eos_token_id
    said = sampling.sample(model, rows, 8, end, 1.0, torch.Generator().manual_seed(3), 8)
    again = sampling.sample(model, rows, 8, end, 1.0, torch.Generator().manual_seed(3), 8)
    assert torch.equal(said.ids, again.ids)
    together = sampling.log_likelihoods(model, said)
    for number, row in enumerate(rows):
        own = said.ids[number, -said.tokens :][said.spoken[number].bool()].tolist()
        alone = sampling.log_likelihoods(model, sampling.of_pairs([(row, own)]))
        assert torch.allclose(alone[0], together[number, : len(own)], atol=1e-4)
        plain = model(input_ids=torch.tensor([row + own])).logits[0].log_softmax(-1)
        first = plain[len(row) - 1, own[0]]
        assert together[number, 0].item() == pytest.approx(first.item(), abs=1e-4)


def test_an_answer_that_has_not_ended_is_no_text(model, tokenizer):
    rows = [tokenizer("52413>")["input_ids"]]
    cut = sampling.sample(model, rows, 3, tokenizer.eos_token_id, 0.1, torch.Generator().manual_seed(1), 8)
    whole = sampling.sample(model, rows, 8, tokenizer.eos_token_id, 0.1, torch.Generator().manual_seed(1), 8)
    assert sampling.texts(cut, tokenizer) == [None]
    assert len(sampling.texts(whole, tokenizer)[0] or "") == 5


# --- methods ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["policy_gradient", "expert_iteration"])
def test_the_same_order_gives_the_same_bytes_and_another_seed_others(tmp_path, method):
    recipe = {"method": method, **SHORT}
    claims = learn(tmp_path / "a", recipe)
    learn(tmp_path / "b", recipe)
    learn(tmp_path / "c", recipe, seed=8)
    assert claims["steps"] == "2"
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert digests(tmp_path / "a")["model.safetensors"] != digests(tmp_path / "c")["model.safetensors"]
    for name in ("config.json", "tokenizer.json"):
        assert digests(tmp_path / "a")[name] == str(digest_file(CHAMPION / name))
    used = {line.value["id"] for line in read_lines(tmp_path / "a" / "out" / "data" / "train.jsonl")}
    assert 4 <= len(used) <= 8


def test_an_adapter_is_written_that_merges(tmp_path):
    learn(tmp_path, {**SHORT, "form": "adapter", "lr": "1e-2"})
    merge.merge(
        {"champion": str(CHAMPION), "adapter": str(tmp_path / "out" / "model"), "out": str(tmp_path / "m")}
    )
    changed = dict(weights.tensors(tmp_path / "m" / "model"))
    before = dict(weights.tensors(CHAMPION))
    assert set(changed) == set(before)
    assert any(not torch.equal(changed[name], before[name]) for name in before)


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"method": "magic"}, "one of policy_gradient, preference, expert_iteration"),
        ({"reward": "nice"}, "one of places, exact"),
        ({"group": "1"}, "group: must be a whole number from 2"),
        ({"kl": "-1"}, "kl: must be a number from 0 to 1000"),
        ({"lr": "nan"}, "lr: must be a number above 0"),
        ({"form": "soul"}, "one of full, adapter, average"),
        ({"beta": "1"}, "beta: unknown key"),
        ({"method": "preference", "samples": "1"}, "samples: must be a whole number from 2"),
        ({"method": "preference", "ask": "1000"}, "ask: must be a whole number from 1 to 200"),
        ({"method": "preference", "rehearsed": "-1"}, "rehearsed: must be a whole number from 0"),
        ({"method": "preference", "keep": "nan"}, "keep: must be a number from 0"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(tmp_path, recipe, said):
    with pytest.raises(InvalidInputError) as refused:
        learn(tmp_path, recipe)
    assert said in str(refused.value)


def test_records_without_answers_are_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="no record has a prompt and an answer"):
        learn(tmp_path, SHORT, records=[{"text": "only text"}])


def test_where_no_answer_was_right_nothing_is_imitated_and_nothing_written(tmp_path):
    records = [{"prompt": "12345>", "answer": "999999999"}]
    recipe = {"method": "expert_iteration", **SHORT}
    with pytest.raises(JobFailedError, match="answers was right: there is nothing to imitate"):
        learn(tmp_path, recipe, records=records)
    assert not (tmp_path / "out" / "model").exists()


def test_a_loss_that_is_no_number_ends_the_run_before_a_model_is_written(tmp_path):
    parameter = torch.nn.Parameter(torch.ones(2))
    recipe = {"steps": 3, "warmup": 0.0, "lr": 0.1, "weight_decay": 0.0, "clip": 1.0, "form": "full"}
    updates = Updates([parameter], recipe)
    with pytest.raises(JobFailedError, match="the loss became nan in step 1 of 3"):
        updates.step(parameter.sum() * float("nan"))
    assert parameter.tolist() == [1.0, 1.0]
    model = forms.prepare(CHAMPION, recipe)
    with torch.no_grad():
        forms.trained(model)[0][0, 0] = float("inf")
    with pytest.raises(JobFailedError, match="not finite"):
        forms.save(model, recipe, CHAMPION, tmp_path / "model")
    assert not (tmp_path / "model").exists()


# --- preferences -----------------------------------------------------------------------------


def answered(questions: list[dict], fresh: bool = True) -> list[dict]:
    """Each question answered by whoever knows the right answer; the first option where neither is right."""
    skill = parse_skill("sort")
    lines = []
    for asked in questions:
        right = skill.answer(asked["prompt"][:5])
        chosen = max((0, 1), key=lambda n: policy_gradient.reward_of("places")(asked["options"][n], right))
        lines.append(
            {**asked, "answer": asked["options"][chosen], "chosen": chosen, "skipped": False, "fresh": fresh}
        )
    return lines


ASKING = {"method": "preference", "answer_tokens": "8", "samples": "4"}
PREFERRING = {**ASKING, "steps": "8", "batch": "8", "lr": "5e-4", "rehearsed": "8"}


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> list[dict]:
    """Sixteen choices that the champion asks for."""
    folder = tmp_path_factory.mktemp("asked")
    learn(folder, {**ASKING, "ask": "16"})
    return [json.loads(row) for row in (folder / "out" / "questions.jsonl").read_text().splitlines()]


def test_without_a_choice_it_asks_and_writes_no_model(tmp_path):
    assert learn(tmp_path, {**ASKING, "ask": "5"}) == {}
    asked = [json.loads(line) for line in (tmp_path / "out" / "questions.jsonl").read_text().splitlines()]
    assert len(asked) == 5
    assert all(one["kind"] == "choice" and len(set(one["options"])) == 2 for one in asked)
    assert not (tmp_path / "out" / "model").exists()
    # What was asked is not asked again, and what nobody could decide is not trained on.
    skipped = [{**one, "answer": "", "chosen": -1, "skipped": True, "fresh": True} for one in asked]
    assert learn(tmp_path / "more", {**ASKING, "ask": "40"}, answers=skipped) == {}
    later = (tmp_path / "more" / "out" / "questions.jsonl").read_text().splitlines()
    assert later
    assert not {json.loads(line)["prompt"] for line in later} & {one["prompt"] for one in asked}


def test_from_choices_it_learns_to_say_what_people_prefer(tmp_path, questions):
    answers = answered(questions)
    claims = learn(tmp_path / "one", PREFERRING, answers=answers)
    learn(tmp_path / "two", PREFERRING, answers=answers)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert float(claims["last_loss"]) < float(claims["first_loss"])
    records = [line.value for line in read_lines(tmp_path / "one" / "out" / "data" / "preferences.jsonl")]
    assert len(records) == len(answers)
    assert {record["origin"] for record in records} == {"person"}
    assert all(
        r["chosen"] == a["answer"] and r["rejected"] != a["answer"]
        for r, a in zip(records, answers, strict=True)
    )
    # Without one that is new it asks instead.
    assert learn(tmp_path / "three", PREFERRING, answers=answered(questions, fresh=False)) == {}


def test_the_champion_itself_is_the_zero_of_preferences(model, tokenizer):
    prompt = tokenizer("52413>")["input_ids"]
    pair = (prompt, tokenizer("12345.")["input_ids"], tokenizer("54321.")["input_ids"])
    own = preference.Own()
    recipe = {"beta": 0.1, "imitation": 0.0, "keep": 1.0}
    (loss,) = preference.loss_in_parts(model, model, [pair], [], recipe, Plan(2), own)
    assert loss.item() == own.loss == pytest.approx(0.6931472, abs=1e-6)
    assert own.preferred == 0


# --- rehearsal -------------------------------------------------------------------------------


def test_what_is_rehearsed_is_the_champions_own_answer_to_a_prompt_that_differs_in_one_token(
    model, tokenizer
):
    prompts = [list(tokenizer(text)["input_ids"]) for text in ("52413>", "90217>")]
    made = rehearsal.rehearsals(model, tokenizer, prompts, 20, 8, seed=3)
    assert made == rehearsal.rehearsals(model, tokenizer, prompts, 20, 8, seed=3)
    assert made != rehearsal.rehearsals(model, tokenizer, prompts, 20, 8, seed=4)
    assert len(made) == 20
    for ids, labels in made:
        prompt = [token for token, label in zip(ids, labels, strict=True) if label == IGNORED]
        assert min(sum(a != b for a, b in zip(prompt, known, strict=True)) for known in prompts) <= 1
        said, _ = rehearsal.greedy(model, torch.tensor([prompt]), 8, tokenizer.eos_token_id)
        assert ids == prompt + said[0] + [tokenizer.eos_token_id]
    own = rehearsal.chances(model, made)
    assert rehearsal.divergence(own, own).item() == 0


def test_who_rehearses_stays_nearer_to_the_champion_where_nobody_was_asked(
    tmp_path, model, tokenizer, questions
):
    prompts = [list(tokenizer(asked["prompt"])["input_ids"]) for asked in questions]
    rows = rehearsal.rehearsals(model, tokenizer, prompts, 64, 8, seed=99)  # not those that it rehearses
    before, moved = rehearsal.chances(model, rows).detach(), {}
    for rehearsed in ("32", "0"):
        recipe = {**PREFERRING, "rehearsed": rehearsed}
        learn(tmp_path / rehearsed, recipe, answers=answered(questions))
        later = weights.load_model(tmp_path / rehearsed / "out" / "model", torch.float32)
        moved[rehearsed] = rehearsal.divergence(before, rehearsal.chances(later, rows)).item()
    assert 0 < moved["32"] < moved["0"] / 2, moved
