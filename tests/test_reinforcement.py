"""The reinforcement learner, the policy it trains, and the probes that measure what came of it."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from guardrails.canonical import digest_file
from guardrails.errors import InvalidInputError, JobFailedError
from guardrails.records import ModelKind
from sandbox.models import navigator
from sandbox.models.navigator.make import make_model
from sandbox.worker import data, weights
from sandbox.worker.environments import lava
from sandbox.worker.environments.episodes import play, rate
from sandbox.worker.environments.policy import Encoder, Policy, build_tokenizer
from sandbox.worker.learners import Order, recipes
from sandbox.worker.learners.reinforcement import learn
from sandbox.worker.learners.settings import positive
from sandbox.worker.probes import Models, Scalars, actions, episodes

torch.set_num_threads(1)
SHORT = {"iterations": "3", "layouts": "8", "episodes": "4", "epochs": "2", "batch": "64"}


def layout_records(layouts):
    return [{"id": lava.layout_id(text), "layout": text} for text in layouts]


def order(tmp_path, layouts, recipe, seed=1, lines=None):
    data.write_records(tmp_path / "in" / "layouts.jsonl", layout_records(layouts))
    lines = [] if lines is None else lines
    return Order(
        kind=ModelKind.LAM,
        champion=navigator.locate(),
        data=tmp_path / "in",
        out=tmp_path / "out",
        recipe=recipe,
        seed=seed,
        report=lambda progress, stage, **numbers: lines.append((progress, stage, numbers)),
    )


def load(directory):
    return weights.load_model(directory, torch.float32)


def side_by_side(candidate, champion, original=None):
    tokenizer = weights.load_tokenizer(navigator.locate())
    return Models(candidate, champion, original, tokenizer, ModelKind.LAM)


def run_probe(probe, items, models, scalars=None):
    scalars = Scalars() if scalars is None else scalars
    return probe.run(items, models, 0, suite="s", scalars=scalars, report=lambda share, stage: None)


def paired(series, name):
    """Mean difference candidate - champion and the bounds of its 95 % interval (normal)."""
    pairs = zip(series.columns[f"{name}_candidate"], series.columns[f"{name}_champion"], strict=True)
    differences = [candidate - champion for candidate, champion in pairs]
    mean = statistics.fmean(differences)
    half = 1.96 * statistics.stdev(differences) / math.sqrt(len(differences))
    return mean, mean - half, mean + half


# --- the learner ---------------------------------------------------------------------------


def test_the_same_order_writes_the_same_bytes_and_another_seed_others(tmp_path):
    layouts = lava.generate_layouts(12, 1, part="train")
    digests = []
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        task = order(tmp_path / name, layouts, SHORT, seed)
        claims = learn(task)
        digests.append(digest_file(task.out / "model" / "model.safetensors"))
        assert set(claims) == {"first_success", "last_success", "first_unsafe", "last_unsafe", "layouts"}
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]
    assert digests[0] != digest_file(navigator.locate() / "model.safetensors")


def test_a_bundle_is_a_whole_model_with_the_champions_own_configuration(tmp_path):
    lines = []
    layouts = lava.generate_layouts(12, 1, part="train")
    task = order(tmp_path, layouts, SHORT, lines=lines)
    learn(task)
    assert not weights.foreign_files(task.out / "model")
    assert weights.shapes(task.out / "model") == weights.shapes(navigator.locate())
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (task.out / "model" / name).read_bytes() == (navigator.locate() / name).read_bytes()
    used = [line.value for line in data.read_directory(task.out / "data")]
    assert used
    assert all(record in layout_records(layouts) for record in used), "records stand as they were given"
    shares = [share for share, _, _ in lines]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_practice_on_levels_where_the_champion_burns_wins_most_of_them(tmp_path):
    encoder = Encoder(build_tokenizer())
    tried = play(Policy(load(navigator.locate()), encoder), lava.generate_layouts(60, 5, part="train"))
    layouts = [episode.layout for episode in tried if episode.end == "unsafe"]
    assert len(layouts) >= 8
    recipe = {"iterations": "12", "layouts": "16", "episodes": "8", "forms": "1"}
    task = order(tmp_path, layouts, recipe)
    learn(task)
    after = play(Policy(load(task.out / "model"), encoder), layouts)
    assert rate(after, "success") > 0.5


@pytest.mark.parametrize(
    ("recipe", "why"),
    [
        ({"iteration": "3"}, "iteration: unknown key"),
        ({"iterations": "many"}, "must be a whole number from 1 to 1000000, not 'many'"),
        ({"iterations": "0"}, "iterations"),
        ({"lr": "nan"}, "lr"),
        ({"lr": "-1"}, "lr"),
        ({"episodes": "1"}, "episodes"),
        ({"discount": "1.5"}, "discount"),
        ({"temperature": "0"}, "temperature"),
        ({"lava_penalty": "inf"}, "lava_penalty"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(tmp_path, recipe, why):
    task = order(tmp_path, lava.generate_layouts(2, 1), recipe)
    with pytest.raises(InvalidInputError, match=why):
        learn(task)
    assert not task.out.exists()


@pytest.mark.parametrize(
    ("records", "why"),
    [
        ([], "no layout to learn from"),
        ([{"id": "a"}], r"layouts\.jsonl:1: the record has no text field"),
        ([{"id": "a", "layout": "....."}], r"layouts\.jsonl:1: layout"),
    ],
)
def test_data_without_usable_layouts_is_refused(tmp_path, records, why):
    task = order(tmp_path, [], SHORT)
    data.write_records(tmp_path / "in" / "layouts.jsonl", records)
    with pytest.raises(InvalidInputError, match=why):
        learn(task)
    assert not task.out.exists()


def test_a_run_that_diverges_fails_and_leaves_no_model(tmp_path, monkeypatch):
    monkeypatch.setitem(recipes.RETURN_AND_COST, "lr", positive(1e-3, 1e38))
    task = order(tmp_path, lava.generate_layouts(12, 1), SHORT | {"lr": "1e30"})
    with pytest.raises(JobFailedError, match=r"finite|loss became"):
        learn(task)
    assert not (task.out / "model").exists()


# --- the policy ----------------------------------------------------------------------------


def test_what_a_policy_makes_of_a_state_does_not_depend_on_its_neighbours():
    model, encoder = load(navigator.locate()), Encoder(build_tokenizer())
    states = [item["state"] for item in lava.states_for(lava.generate_layouts(20, 1), 150, seed=1)]
    together = Policy(model, encoder).log_probabilities(states)
    alone = torch.cat([Policy(model, encoder).log_probabilities([state]) for state in states])
    assert torch.equal(together, alone)
    assert torch.allclose(together.exp().sum(1), torch.ones(150))


def test_observations_are_read_token_by_token_and_strange_signs_are_refused():
    tokenizer = build_tokenizer()
    encoder = Encoder(tokenizer)
    text = lava.states_for(lava.generate_layouts(1, 1), 1, seed=1)[0]["state"]
    row = encoder.encode([text])[0]
    assert len(row) == 5 * 5 + 4 + 1
    assert tokenizer.decode(row) == text.replace(" ", "")
    with pytest.raises(JobFailedError, match="every sign"):
        encoder.encode([text.replace(".", "?", 1)])


def test_a_model_with_damaged_weights_never_acts():
    model = load(navigator.locate())
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(JobFailedError, match="not finite"):
        play(Policy(model, Encoder(build_tokenizer())), lava.generate_layouts(2, 1))


def test_sampled_play_follows_its_generator_and_greedy_play_needs_none():
    policy = Policy(load(navigator.locate()), Encoder(build_tokenizer()))
    layouts = lava.generate_layouts(30, 2)

    def paths(seed):
        return [
            episode.path for episode in play(policy, layouts, sampler=torch.Generator().manual_seed(seed))
        ]

    assert paths(1) == paths(1)
    assert paths(1) != paths(2)
    assert [e.path for e in play(policy, layouts)] == [e.path for e in play(policy, layouts)]


# --- the probes ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base():
    return load(navigator.locate())


@pytest.fixture(scope="module")
def untrained():
    torch.manual_seed(0)
    return make_model(len(build_tokenizer())).eval().requires_grad_(False)


def test_equal_models_measure_as_exactly_equal(base):
    layouts = lava.generate_layouts(60, 3, part="held_out")
    models = side_by_side(load(navigator.locate()), base, base)
    (played,) = run_probe(episodes, layout_records(layouts), models)
    for name in episodes.MEASURES:
        assert played.columns[f"{name}_candidate"] == played.columns[f"{name}_champion"]
    distribution, tokens = run_probe(actions, lava.states_for(layouts, 80, 1), models)
    assert set(distribution.columns["kl_mean"]) == set(tokens.columns["kl"]) == {0.0}
    assert set(distribution.columns["kl_original_mean"]) == {0.0}
    assert set(distribution.columns["agree"]) == {1.0}


def test_an_untrained_model_measures_as_worse_and_as_far_away(base, untrained):
    layouts = lava.generate_layouts(200, 3, part="held_out")
    (played,) = run_probe(episodes, layout_records(layouts), side_by_side(untrained, base))
    assert played.suite == "s"
    assert played.items == tuple(lava.layout_id(text) for text in layouts)
    assert paired(played, "success")[2] < 0
    distribution, tokens = run_probe(actions, lava.states_for(layouts, 200, 1), side_by_side(untrained, base))
    assert (distribution.probe, tokens.probe) == ("distribution", "distribution_tokens")
    assert "kl_original_mean" not in distribution.columns
    assert statistics.fmean(distribution.columns["kl_mean"]) > 0.5
    assert min(distribution.columns["kl_mean"]) >= 0


def test_episodes_end_in_one_way_and_success_takes_no_fewer_steps_than_the_shortest_path(base, untrained):
    layouts = lava.generate_layouts(100, 4, part="held_out")
    (played,) = run_probe(episodes, layout_records(layouts), side_by_side(untrained, base))
    for who in ("candidate", "champion"):
        ends = zip(*(played.columns[f"{name}_{who}"] for name in episodes.MEASURES), strict=True)
        for text, (success, unsafe, steps) in zip(layouts, ends, strict=True):
            assert success + unsafe in (0.0, 1.0)
            assert 1 <= steps <= lava.MAX_STEPS
            assert success + unsafe == 1.0 or steps == lava.MAX_STEPS
            assert not success or steps >= len(lava.shortest_path(text))


def test_the_champions_episodes_are_kept_and_the_candidates_never(base, untrained):
    items = layout_records(lava.generate_layouts(30, 6, part="held_out"))
    first = Scalars()
    fresh = run_probe(episodes, items, side_by_side(untrained, base), first)
    assert set(first.fresh) == {Scalars.key("episodes", item) for item in items}
    second = Scalars(known=dict(first.fresh))
    # the wrong champion on purpose: its numbers must come from what is known, the candidate's must not
    again = run_probe(episodes, items, side_by_side(untrained, untrained), second)
    assert again == fresh
    assert second.fresh == first.fresh


def test_samples_show_the_level_and_what_each_model_did(base, untrained):
    items = layout_records(lava.generate_layouts(3, 7, part="held_out"))
    shown = episodes.samples(items, side_by_side(untrained, base), suite="s")
    assert [sample.prompt for sample in shown] == [item["layout"].replace("/", "\n") for item in items]
    for sample in shown:
        for text in (sample.champion, sample.candidate):
            assert text.startswith(
                ("reached the goal after", "did what is unsafe after", "ran out of steps after")
            )


@pytest.mark.parametrize(("probe", "item"), [(episodes, {"id": "a"}), (actions, {"id": "a", "layout": "x"})])
def test_an_item_without_what_the_probe_reads_is_refused(base, probe, item):
    with pytest.raises(InvalidInputError, match="suite s: item 'a' has no text field"):
        run_probe(probe, [item], side_by_side(base, base))


# --- the study -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_default_recipe_improves_held_out_play_on_four_of_five_seeds(tmp_path, base):
    suite = layout_records(lava.generate_layouts(400, "study", part="held_out"))
    scalars, better = Scalars(), []
    for seed in range(5):
        task = order(
            tmp_path / str(seed), lava.generate_layouts(1500, f"study-{seed}", part="train"), {}, seed
        )
        learn(task)
        (played,) = run_probe(episodes, suite, side_by_side(load(task.out / "model"), base), scalars)
        success, unsafe = paired(played, "success"), paired(played, "unsafe")
        print(f"seed {seed}: success {success}, unsafe {unsafe}")
        better.append(success[1] > 0 and unsafe[0] <= 0)
    assert sum(better) >= 4
