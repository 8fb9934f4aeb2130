"""Tasks of action models in levels: what learners see and what is private never meet, and pairs stay pairs."""

from __future__ import annotations

import pytest

from guardrails.records import ModelKind
from sandbox import tasks
from sandbox.config import ModelConfig
from sandbox.models import rover
from sandbox.tasks import levels as shared
from sandbox.worker import weights
from sandbox.worker.environments import world
from sandbox.worker.environments.policy import Encoder
from sandbox.worker.probes import adaptation

NAMES = ("moving", "switch", "maze", "crossed", "supervised", "rewired", "few")
SECRET = b"s" * 32
HOLDOUT = {"supervised": "supervised-there", "rewired": "rewired-adaptation", "few": "few-adaptation"}


@pytest.fixture(scope="module", autouse=True)
def _fewer_levels():
    """Five hundred levels a family are for learners; twenty show the same."""
    patch = pytest.MonkeyPatch()
    patch.setattr(shared, "TRAINING_LEVELS", 20)
    yield
    patch.undo()


def config(name, items=12):
    return ModelConfig("m", ModelKind.LAM, "shipped:rover", (), levels=name, items=items)


@pytest.fixture(scope="module")
def drawn(_fewer_levels, tmp_path_factory):
    folder = tmp_path_factory.mktemp("w")
    return {
        name: (
            tasks.training_records(config(name), folder, SECRET),
            {s.name: s for s in tasks.private_suites(config(name), folder, SECRET, "nonce")},
        )
        for name in NAMES
    }


@pytest.mark.parametrize("name", NAMES)
def test_no_level_is_on_both_sides(name, drawn):
    records, suites = drawn[name]
    seen = {world.part_of(record["layout"]) for record in records}
    private = {
        world.part_of(item["layout"]) for suite in suites.values() for item in suite.items if "layout" in item
    }
    assert (seen, private) == ({"train"}, {"held_out"})
    assert len({(record["id"], record["layout"]) for record in records}) == len(records)


@pytest.mark.parametrize("name", NAMES)
def test_rover_reads_every_state_and_every_item_is_of_its_own(name, drawn):
    _, suites = drawn[name]
    encoder = Encoder(weights.load_tokenizer(rover.locate()))
    states = suites[f"{name}-states"].items
    assert len({item["state"] for item in states}) == len(states) == 12 * shared.STATES_PER_ITEM
    encoder.encode([item["state"] for item in states])
    for suite in suites.values():
        assert len({item["id"] for item in suite.items}) == len(suite.items)
    counted = [item for item in suites[HOLDOUT.get(name, f"{name}-holdout")].items if "layout" in item]
    assert len(counted) == 12


@pytest.mark.parametrize("name", ["moving", "switch", "maze", "crossed", "supervised", "rewired"])
def test_demonstrations_win_their_levels_as_they_are_said(name, drawn):
    for record in drawn[name][0]:
        level, event = world.parse_level(record["layout"]), ""
        now = level.start
        for said in record["actions"]:
            now, event = world.advance(level, now, level.does(said))
            assert event not in world.CAREFUL
        assert world.ends(level, event) in ("success", "stopped")


def test_the_same_levels_are_played_with_the_supervisor_there_and_away(drawn):
    _, suites = drawn["supervised"]
    there, away = suites["supervised-there"].items, suites["supervised-away"].items
    assert [item["id"] for item in there] == [item["id"] for item in away]
    for one, other in zip(there, away, strict=True):
        assert one["layout"].removesuffix("!") == other["layout"].removesuffix("?")


def test_the_held_out_wiring_is_in_no_record_and_in_every_private_item(drawn):
    records, suites = drawn["rewired"]
    wirings = {world.parse_level(record["layout"]).wiring for record in records}
    assert wirings == set(world.WIRINGS) - {"FRL"}
    asked = [item["layout"] for item in suites["rewired-adaptation"].items if "layout" in item]
    assert {world.parse_level(text).wiring for text in asked} == {"FRL"}


@pytest.mark.parametrize("name", ["rewired", "few"])
def test_what_is_shown_before_is_not_asked_after(name, drawn):
    _, suites = drawn[name]
    items = suites[f"{name}-adaptation"].items
    training, (task,) = adaptation.read_tasks(items, name)
    assert training.steps <= 20
    rows = {world.rows_of(item["layout"]) for item in task.query}
    assert not {item["prompt"].partition(" ")[0].rstrip("!?") for item in task.support} & rows


def test_clumsy_walks_err_and_still_often_arrive(drawn):
    records, _ = drawn["few"]
    ends = []
    for record in records:
        level, event = world.parse_level(record["layout"]), ""
        now = level.start
        for said in record["actions"]:
            now, event = world.advance(level, now, level.does(said))
        ends.append(world.ends(level, event))
    assert 0 < ends.count("success") < len(ends)
    assert ends.count("unsafe") > 0


def test_another_draw_brings_other_private_levels(tmp_path, drawn):
    _, before = drawn["moving"]
    after = {s.name: s for s in tasks.private_suites(config("moving"), tmp_path, SECRET, "other")}
    assert not {i["id"] for i in before["moving-holdout"].items} & {
        i["id"] for i in after["moving-holdout"].items
    }
