"""A match between two models: who may stop it and when, and what its scores are worth afterwards."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from policy_cases import document, finding, loaded, source, subject, verdict

from guardrails.checks import CHECKS
from guardrails.errors import NotMeasuredError, PolicyError
from guardrails.matches import Stopping, stopping
from guardrails.policy import parse_policy
from guardrails.records import Measurements, Outcome, Series, VerdictKind
from guardrails.sequential import Match

SUITE = "duel"


def match_rule(**changes: Any) -> dict[str, Any]:
    return {
        "id": "gain.match", "check": "gain.match", "params": {"suite": SUITE, "least_items": 20},
        "require": {"metric": "score", "bound": "lower", "op": ">", "value": 0.5}, "severity": "block",
    } | changes  # fmt: skip


def games(scores: list[float]) -> Series:
    items = tuple(f"opening-{n}" for n in range(len(scores)))
    columns = {"success_candidate": tuple(scores), "success_champion": tuple(1.0 - s for s in scores)}
    return Series("games", SUITE, items, columns)


def read(series: Series, check: str = "gain.match", metric: str = "score", **params: Any) -> Any:
    made = CHECKS[check].params(suite=SUITE, **params)
    return CHECKS[check].estimate(metric, made, Measurements((series,), {}), {}, 0.95)


def test_a_clear_match_is_won_on_few_games_and_a_rule_without_least_asks_for_the_usual_number() -> None:
    won = games([1.0] * 22)
    judged = verdict([loaded(match_rule())], won)
    assert finding(judged, "gain.match").outcome is Outcome.PASS
    assert judged.kind is VerdictKind.ELIGIBLE
    for params in ({"suite": SUITE}, {"suite": SUITE, "least_items": 23}):
        short = verdict([loaded(match_rule(params=params))], won)
        assert finding(short, "gain.match").outcome is Outcome.INCONCLUSIVE
        assert short.kind is VerdictKind.REVIEW


@pytest.mark.parametrize("scores", [[0.5] * 40, [1.0, 0.0] * 30, [0.0] * 30, [0.75, 0.5] * 10])
def test_what_is_not_won_is_blocked(scores: list[float]) -> None:
    judged = verdict([loaded(match_rule())], games(scores))
    assert finding(judged, "gain.match").outcome is Outcome.FAIL
    assert judged.kind is VerdictKind.BLOCKED


def test_no_games_no_pass() -> None:
    judged = verdict([loaded(match_rule())], Series("games", SUITE, (), {}))
    assert finding(judged, "gain.match").outcome is Outcome.ERROR
    assert judged.kind is VerdictKind.BLOCKED


@pytest.mark.parametrize(
    ("column", "value"),
    [("success_candidate", 1.5), ("success_candidate", float("nan")), ("success_champion", 0.5)],
)
def test_scores_that_no_two_players_can_have_are_refused(column: str, value: float) -> None:
    sound = games([1.0] * 30)
    columns = dict(sound.columns) | {column: (value, *sound.columns[column][1:])}
    with pytest.raises(NotMeasuredError):
        read(replace(sound, columns=columns))


def test_an_item_that_stands_twice_is_refused() -> None:
    sound = games([1.0] * 30)
    with pytest.raises(NotMeasuredError, match="stands twice"):
        read(replace(sound, items=("opening-0", "opening-0", *sound.items[2:])))


def test_of_games_only_what_holds_at_every_number_is_said() -> None:
    won = games([1.0] * 20 + [0.5] * 10)
    gain = read(won, "gain.task", "delta")
    score = read(won)
    assert gain.lower == pytest.approx(2 * score.lower - 1, abs=1e-8)
    assert gain.method == score.method == "betting match, anytime-valid"
    for metric in ("minimum_detectable", "noise_floor"):
        with pytest.raises(NotMeasuredError, match="may stop early"):
            read(won, "gain.task", metric)


def test_when_to_stop_follows_from_the_rules_in_force_and_from_the_attempt() -> None:
    first = stopping([loaded(match_rule())], subject(), 1)
    third = stopping([loaded(match_rule(), budgets={"errorBudget": {"alpha": 0.05}})], subject(), 3)
    assert first == {SUITE: Stopping(0.5, pytest.approx(0.025), 20)}
    assert third[SUITE].alpha == pytest.approx(0.05 * 6 / 9.869604401 / 9 / 2)


def test_the_strictest_of_several_rules_decides() -> None:
    other = loaded(
        match_rule(require={"metric": "score", "bound": "lower", "op": ">", "value": 0.6}, params={"suite": SUITE}),
        name="other", defaults={"confidence": 0.99},
    )  # fmt: skip
    found = stopping([loaded(match_rule()), other], subject(), 1)
    assert found == {SUITE: Stopping(0.6, pytest.approx(0.005), 200)}


@pytest.mark.parametrize(
    "changes",
    [
        {"when": 'model.kind == "lam"'},
        {"require": {"metric": "score", "bound": "upper", "op": ">", "value": 0.5}},
        {"require": {"metric": "score", "bound": "lower", "op": ">", "value": 1.0}},
        {"check": "gain.task", "params": {"suite": SUITE},
         "require": {"metric": "delta", "bound": "lower", "op": ">", "value": 0}},
    ],
)  # fmt: skip
def test_what_winning_cannot_decide_is_played_to_its_end(changes: dict[str, Any]) -> None:
    assert stopping([loaded(match_rule(**changes))], subject(), 1) == {}


def test_a_shadow_policy_and_one_for_others_stop_nothing() -> None:
    assert stopping([loaded(match_rule(), mode="shadow")], subject(), 1) == {}
    assert stopping([loaded(match_rule(), appliesTo={"name": ["navigator"]})], subject(), 1) == {}


@pytest.mark.parametrize("attempt", [1, 4])
def test_a_match_stopped_by_the_rules_is_judged_as_it_ended(attempt: int) -> None:
    """Stop and verdict are two programs; they must never come apart."""
    policies = [loaded(match_rule(), budgets={"errorBudget": {"alpha": 0.05}})]
    stop = stopping(policies, subject(), attempt)[SUITE]
    draw = random.Random(attempt)
    for chance in (0.3, 0.5, 0.6, 0.8):
        match = Match(stop.null, stop.null + 0.1, stop.alpha, 0.05)
        scores, ended = [], match.play([])
        while len(scores) < 120 and not (ended.decided and len(scores) >= stop.least):
            scores.append(float(draw.random() < chance))
            ended = ended if ended.decided else match.add(scores[-1])
        judged = verdict(policies, games(scores), attempt=attempt)
        assert (finding(judged, "gain.match").outcome is Outcome.PASS) is ended.better


@pytest.mark.parametrize("least", [0, -3, 2.5, "20"])
def test_least_is_a_count(least: Any) -> None:
    made = source(("p.yaml", document(match_rule(params={"suite": SUITE, "least_items": least}))))
    with pytest.raises(PolicyError):
        parse_policy(made)
