"""Learners of action models in levels, with tiny recipes: what they take, write, and refuse. Gains are measured slowly."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch

from guardrails.canonical import digest_file
from guardrails.errors import InvalidInputError
from guardrails.records import ModelKind
from sandbox.models import navigator
from sandbox.worker import data, weights
from sandbox.worker.environments import families, lava, world
from sandbox.worker.environments.episodes import Episode
from sandbox.worker.environments.policy import Encoder
from sandbox.worker.learners import Order
from sandbox.worker.learners.active import states
from sandbox.worker.learners.levels import (
    Record,
    imitation,
    meta,
    read_records,
    rescaling,
    self_supervised,
    steps_of,
    transfer,
)

LEVELS = lava.generate_layouts(6, "learners", part="train")
WIRED = [f"{text}@{wiring}" for text in LEVELS[:2] for wiring in world.WIRINGS[1:3]]
SMALL = {
    transfer: {"updates": 2, "batch": 4, "forms": 1},
    meta: {"method": "reptile", "rounds": 2, "inner": 2, "batch": 4, "shots": 1},
    self_supervised: {"updates": 2, "batch": 4, "walks": 1},
    states: {"updates": 2, "batch": 4, "labels": 3, "levels": 6},
}


@pytest.fixture(scope="module")
def champion(tmp_path_factory):
    folder = tmp_path_factory.mktemp("champion")
    for name in navigator.FILES:
        (folder / name).write_bytes((navigator.locate() / name).read_bytes())
    return folder


def demonstrated(levels=(*LEVELS, *WIRED)):
    return [{"id": world.level_id(t), "layout": t, "actions": world.demonstration(t)} for t in levels]


def order(tmp_path, champion, records, recipe=None, seed=1, answers=()):
    folder = tmp_path / f"job-{len(list(tmp_path.iterdir()))}"
    data.write_records(folder / "data" / "train.jsonl", records)
    if answers:
        data.write_records(folder / "data" / "answers.jsonl", answers)
    (folder / "out").mkdir()
    recipe = {name: str(value) for name, value in (recipe or {}).items()}
    return Order(
        ModelKind.LAM, champion, folder / "data", folder / "out", recipe, seed, lambda *_, **__: None
    )


def answered(question, answer="F", *, skipped=False, fresh=True):
    chosen = -1 if skipped else question["options"].index(answer)
    return {
        "id": question["id"], "kind": "action", "prompt": question["prompt"], "options": question["options"],
        "answer": "" if skipped else answer, "chosen": chosen, "skipped": skipped, "fresh": fresh,
        "layout": question["layout"], "origin": "person",
    }  # fmt: skip


def files(out: Path) -> dict[str, str]:
    return {str(p.relative_to(out)): str(digest_file(p)) for p in sorted(out.rglob("*")) if p.is_file()}


def questions(task: Order):
    return [json.loads(line) for line in (task.out / "questions.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("learner", [transfer, meta, self_supervised])
def test_the_same_order_gives_the_same_bytes_and_another_seed_others(tmp_path, champion, learner):
    tasks = [order(tmp_path, champion, demonstrated(), SMALL[learner], seed) for seed in (1, 1, 2)]
    claims = [learner.learn(task) for task in tasks]
    assert files(tasks[0].out) == files(tasks[1].out)
    assert files(tasks[0].out)["model/model.safetensors"] != files(tasks[2].out)["model/model.safetensors"]
    assert set(claims[0]) == {"first_loss", "last_loss", "records", "steps"}
    for name in ("config.json", "tokenizer.json"):
        assert (tasks[0].out / "model" / name).read_bytes() == (champion / name).read_bytes()


def test_an_adapter_goes_out_alone_and_the_control_from_scratch_forgets_the_champion(tmp_path, champion):
    task = order(tmp_path, champion, demonstrated(), {**SMALL[transfer], "form": "adapter"})
    transfer.learn(task)
    assert {path.name for path in (task.out / "model").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert (
        "/"
        not in json.loads((task.out / "model" / "adapter_config.json").read_text())["base_model_name_or_path"]
    )
    scratch = order(tmp_path, champion, demonstrated(), {**SMALL[transfer], "start": "scratch"})
    transfer.learn(scratch)
    before = weights.load_model(champion, torch.float32).get_input_embeddings().weight
    after = weights.load_model(scratch.out / "model", torch.float32).get_input_embeddings().weight
    assert float((before * after).sum().abs() / (before.norm() * after.norm())) < 0.2


def test_a_mirrored_demonstration_still_wins_its_mirrored_level():
    for text in (*LEVELS[:2], *WIRED, families.generate("moving", 1, "mirror")[0]):
        record = Record(text, world.demonstration(text), "", {})
        for form in range(lava.FORMS):
            level = world.parse_level(world.symmetric(text, form))
            now, event = level.start, ""
            for seen, said in steps_of(record, form):
                assert seen == world.observe(level, now)
                now, event = world.advance(level, now, level.does(said))
            assert event == "goal"


def test_hindsight_shows_ways_that_really_lead_there():
    recipe = {"reach": 8, "stretches": 200}
    draw = __import__("random").Random(3)
    walks = list(self_supervised._wander([Record(t, "", "", {"id": "x"}) for t in LEVELS], 2, 30, 5))
    seen = [step for record in walks for step in self_supervised._hindsight(record, recipe, draw)]
    assert len(seen) > 50
    helps = []
    for observation, said in seen:
        level = world.parse_level(observation.partition(" ")[0])
        way = world.plan(level)
        now, event = world.advance(level, level.start, said)
        assert event not in world.CAREFUL
        helps.append(event == "goal" or len(world.plan(level, world.CAREFUL, now) or way) < len(way))
    assert sum(helps) / len(helps) > 0.6


def test_recordings_are_taken_where_there_are_some_and_moving_obstacles_are_refused(tmp_path, champion):
    task = order(tmp_path, champion, demonstrated(), SMALL[self_supervised])
    self_supervised.learn(task)
    assert len((task.out / "data" / "layouts.jsonl").read_text().splitlines()) == len(LEVELS) + len(WIRED)
    moving = [{"id": "m", "layout": families.generate("moving", 1, "x")[0]}]
    with pytest.raises(InvalidInputError, match="hindsight works in levels that stand still"):
        self_supervised.learn(order(tmp_path, champion, moving, SMALL[self_supervised]))


def test_replay_takes_its_share_of_an_update_from_what_the_champion_does(tmp_path, champion, monkeypatch):
    monkeypatch.setattr(self_supervised, "REPLAYED", 8)
    crossed = demonstrated([f"{text}@RLF" for text in LEVELS])
    longer = {**SMALL[self_supervised], "updates": 15, "batch": 20, "lr": 5e-3}
    tasks = [order(tmp_path, champion, crossed, longer | {"replay": share}) for share in (0.0, 0.9)]
    for task in tasks:
        self_supervised.learn(task)
    encoder = Encoder(weights.load_tokenizer(champion))
    own = self_supervised._own_steps(weights.load_model(champion, torch.float32), encoder)
    known = imitation.examples(encoder, own)
    forgotten = [
        float(imitation.loss_of(weights.load_model(task.out / "model", torch.float32), known, encoder, 0.0))
        for task in tasks
    ]
    assert forgotten[1] < 0.5 * forgotten[0]


@pytest.mark.parametrize("predict", ["observation", "both"])
def test_next_observations_can_be_predicted_too(tmp_path, champion, predict):
    task = order(tmp_path, champion, demonstrated(), {**SMALL[self_supervised], "predict": predict})
    assert float(self_supervised.learn(task)["first_loss"]) > 0


def test_without_an_answer_it_asks_and_proposes_nothing(tmp_path, champion):
    task = order(tmp_path, champion, [{"id": "a", "layout": t} for t in LEVELS], SMALL[states])
    assert states.learn(task) == {}
    assert not (task.out / "model").exists()
    asked = questions(task)
    assert len(asked) == 3
    doubts = [question["uncertainty"] for question in asked]
    assert doubts == sorted(doubts, reverse=True)
    for question in asked:
        level = world.parse_level(question["layout"])
        assert question["prompt"] == question["layout"].replace("/", "\n")
        assert question["options"] == list(lava.ACTIONS)
        assert world.plan(level) is not None
    assert len({question["layout"] for question in asked}) == 3


def test_an_answer_is_learnt_in_all_its_forms_and_not_asked_again(tmp_path, champion):
    levels = [{"id": "a", "layout": t} for t in LEVELS]
    first = order(tmp_path, champion, levels, SMALL[states])
    states.learn(first)
    asked = questions(first)
    answers = [answered(asked[0], "L"), answered(asked[1], skipped=True)]
    recipe = {**SMALL[states], "updates": 60, "batch": 16, "lr": 3e-3}
    second = order(tmp_path, champion, levels, recipe, answers=answers)
    assert states.learn(second)["records"] == "1"
    assert not {question["id"] for question in questions(second)} & {answer["id"] for answer in answers}
    kept = [json.loads(line) for line in (second.out / "data" / "layouts.jsonl").read_text().splitlines()]
    assert [(row["origin"], row["actions"]) for row in kept] == [("person", "L")]
    encoder = Encoder(weights.load_tokenizer(champion))
    record = Record(asked[0]["layout"], "L", "", {})
    steps = [step for form in range(lava.FORMS) for step in steps_of(record, form)]
    rows = imitation.examples(encoder, steps)
    before, after = (
        float(imitation.loss_of(weights.load_model(path, torch.float32), rows, encoder, 0.0))
        for path in (champion, second.out / "model")
    )
    assert after < before


def crossed_steps(encoder):
    """Steps as the champion would have to say them if left were right, encoded."""
    seen = [step for text in LEVELS for step in steps_of(Record(text, world.demonstration(text), "", {}))]
    return imitation.examples(encoder, [(seen, {"L": "R", "R": "L", "F": "F"}[said]) for seen, said in seen])


def test_a_rescaled_champion_acts_as_before_but_relearns_what_to_say_sooner(tmp_path, champion):
    encoder = Encoder(weights.load_tokenizer(champion))
    before, head, both = (weights.load_model(champion, torch.float32).requires_grad_(True) for _ in range(3))
    rescaling.rescale(head, encoder, 32.0, 1.0)
    rescaling.rescale(both, encoder, 32.0, 8.0)
    crossed = crossed_steps(encoder)
    said = rescaling.spoken(before, encoder, crossed.ids)
    for model in (head, both):
        assert torch.allclose(said, rescaling.spoken(model, encoder, crossed.ids), atol=1e-3)
        rescaling.require_same(model, encoder, crossed.ids, said)
    losses = [
        imitation.imitate(model, encoder, crossed, imitation.Settings(12, 16, 2e-3), 1)[-1]
        for model in (before, head)
    ]
    assert losses[1] < losses[0]


def test_a_stiff_body_changes_less_by_the_same_steps(champion):
    encoder = Encoder(weights.load_tokenizer(champion))
    crossed = crossed_steps(encoder)
    moved = []
    for body in (1.0, 8.0):
        model = weights.load_model(champion, torch.float32).requires_grad_(True)
        rescaling.rescale(model, encoder, 1.0, body)
        model.get_input_embeddings().requires_grad_(False)  # tied: the head among them
        said = rescaling.spoken(model, encoder, crossed.ids)
        imitation.imitate(model, encoder, crossed, imitation.Settings(3, 16, 2e-3), 1)
        moved.append(float((rescaling.spoken(model, encoder, crossed.ids) - said).abs().mean()))
    assert moved[1] < 0.5 * moved[0]


def test_what_cannot_be_rescaled_is_refused_and_left_alone(champion):
    encoder = Encoder(weights.load_tokenizer(champion))
    model = weights.load_model(champion, torch.float32)
    block = model.base_model.layers[1].mlp
    block.down_proj.bias = torch.nn.Parameter(torch.zeros(64))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(InvalidInputError, match="a bias"):
        rescaling.rescale(model, encoder, 8.0, 8.0)
    block.down_proj.bias, other = None, block.gate_proj
    del block.gate_proj
    with pytest.raises(InvalidInputError, match="gate_proj"):
        rescaling.rescale(model, encoder, 8.0, 8.0)
    block.gate_proj = other
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    said = rescaling.spoken(model, encoder, crossed_steps(encoder).ids)
    with torch.no_grad():
        block.up_proj.weight.neg_()
    with pytest.raises(InvalidInputError, match="act otherwise"):
        rescaling.require_same(model, encoder, crossed_steps(encoder).ids, said)


def test_that_pair_is_kept_with_which_most_levels_are_won_over_all_families(tmp_path, champion, monkeypatch):
    pairs = list(itertools.product(meta.HEADS, meta.BODIES))
    asked = []

    def play(policy, layouts):
        asked.append(layouts)
        pair, family = divmod(len(asked) - 1, 3)
        # The third pair wins everything in one family, the fifth two levels of three in each.
        won = {2: 3 * (family == 0), 4: 2}.get(pair, 1)
        return [Episode("", end="success" if number < won else "unsafe") for number in range(3)]

    monkeypatch.setattr(meta, "play", play)
    recipe = {**SMALL[meta], "method": "rescale"}
    task = order(tmp_path, champion, demonstrated(), recipe)
    assert meta.learn(task)["steps"] == str(len(pairs) * 3 * recipe["inner"])
    shown = {record["layout"] for record in demonstrated()}
    assert all(set(layouts) < shown for layouts in asked)
    assert asked[:3] * len(pairs) == asked
    encoder = Encoder(weights.load_tokenizer(champion))
    before, after = (weights.load_model(path, torch.float32) for path in (champion, task.out / "model"))
    head, body = pairs[4]
    rows = [model.get_output_embeddings().weight[encoder.actions] for model in (before, after)]
    assert torch.equal(rows[0], rows[1] * head)
    norms = [model.base_model.layers[0].input_layernorm.weight for model in (before, after)]
    assert torch.equal(norms[0], norms[1] * body)


@pytest.mark.parametrize("form", ["head", "full"])
def test_a_head_changes_no_weight_but_those_that_say_an_action(tmp_path, champion, form):
    first = order(tmp_path, champion, [{"id": "a", "layout": t} for t in LEVELS], SMALL[states])
    states.learn(first)
    task = order(
        tmp_path, champion, [{"id": "a", "layout": t} for t in LEVELS], {**SMALL[states], "form": form},
        answers=[answered(questions(first)[0], "L")],
    )  # fmt: skip
    states.learn(task)
    before, after = (
        weights.load_model(path, torch.float32).state_dict() for path in (champion, task.out / "model")
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    said = set(Encoder(weights.load_tokenizer(champion)).actions.tolist())
    rows = (before["lm_head.weight"] != after["lm_head.weight"]).any(1).nonzero().flatten().tolist()
    if form == "head":
        assert set(rows) == said
        assert changed == {"lm_head.weight", "model.embed_tokens.weight"}, "they are tied"
    else:
        assert len(changed) > 2


def test_with_nothing_left_to_ask_and_nothing_new_it_says_so(tmp_path, champion):
    levels = [{"id": "a", "layout": t} for t in LEVELS]
    first = order(tmp_path, champion, levels, SMALL[states])
    states.learn(first)
    old = [answered(question, fresh=False) for question in questions(first)]
    again = order(tmp_path, champion, levels, {**SMALL[states], "budget": 3}, answers=old)
    with pytest.raises(InvalidInputError, match="nothing left to ask"):
        states.learn(again)


def test_an_answer_that_is_no_action_is_refused(tmp_path, champion):
    levels = [{"id": "a", "layout": t} for t in LEVELS]
    first = order(tmp_path, champion, levels, SMALL[states])
    states.learn(first)
    wrong = {**answered(questions(first)[0]), "answer": "jump"}
    with pytest.raises(InvalidInputError, match="'jump' is none of L, R, F"):
        states.learn(order(tmp_path, champion, levels, SMALL[states], answers=[wrong]))


@pytest.mark.parametrize(
    ("learner", "records", "recipe", "why"),
    [
        (transfer, [{"id": "a", "layout": LEVELS[0]}], {}, "no record says what was done"),
        (transfer, demonstrated(), {"form": "half"}, "form: must be one of full, adapter, not 'half'"),
        (transfer, demonstrated(), {"lr": "nan"}, "lr: must be a number above 0 and at most 1, not 'nan'"),
        (transfer, demonstrated(), {"forms": 9}, "forms: must be a whole number from 1 to 8"),
        (transfer, [], {}, "no level to learn from"),
        (transfer, [{"id": "a", "text": "x"}], {}, "train.jsonl:1: the record has no text field 'layout'"),
        (transfer, [{"id": "a", "layout": "#"}], {}, "train.jsonl:1: layout"),
        (transfer, [{"id": "a", "layout": LEVELS[0], "actions": "FX"}], {}, "train.jsonl:1: actions"),
        (meta, demonstrated(LEVELS), {}, "needs two families of levels or more"),
        (meta, demonstrated(), {"method": "maml"}, "method: must be one of rescale, reptile, joint"),
        (meta, demonstrated(), {"step": 2}, "step: must be a number above 0 and at most 1"),
        (self_supervised, demonstrated(), {"replay": 1}, "replay: must be a number from 0 and below 1"),
        (self_supervised, demonstrated(), {"replay": 0.5, "predict": "observation"}, "is of actions"),
        (self_supervised, demonstrated(), {"predict": "future"}, "predict: must be one of"),
        (states, demonstrated(), {"query": "guess"}, "query: must be one of"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused_and_leaves_no_model(
    tmp_path, champion, learner, records, recipe, why
):
    task = order(tmp_path, champion, records, recipe)
    with pytest.raises(InvalidInputError, match=why):
        learner.learn(task)
    assert not (task.out / "model").exists()


def test_a_level_with_two_recordings_is_two_records(tmp_path):
    rows = [{"id": "a", "layout": LEVELS[0], "actions": text} for text in ("F", "L", "F")]
    data.write_records(tmp_path / "train.jsonl", rows)
    assert [record.actions for record in read_records(tmp_path)] == ["F", "L"]
