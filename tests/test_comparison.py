"""Distributions compared in blocks of 32 bits, beside the definitions in plain 64-bit Python."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.worker.probes import comparison
from sandbox.worker.probes.comparison import compare

NAMES = ("champion", "candidate")
INFINITY = float("inf")


def logs(row: list[float]) -> list[float]:
    top = max(row)
    whole = top + math.log(math.fsum(math.exp(value - top) for value in row))
    return [value - whole for value in row]


def expectation(of: list[float], values: list[float]) -> float:
    """Weighed by exp(of); 0 times anything is 0."""
    return math.fsum(math.exp(log) * value for log, value in zip(of, values, strict=True) if math.exp(log))


def less(one: list[float], other: list[float]) -> list[float]:
    return [a - b if a > -INFINITY else 0.0 for a, b in zip(one, other, strict=True)]


def kl(p: list[float], q: list[float]) -> float:
    return expectation(p, less(p, q))


def js(p: list[float], q: list[float]) -> float:
    mixed = [
        math.log((math.exp(a) + math.exp(b)) / 2) if math.exp(a) + math.exp(b) else -INFINITY
        for a, b in zip(p, q, strict=True)
    ]
    return (kl(p, mixed) + kl(q, mixed)) / 2


def plain(tables: dict[str, list[float]], target: int) -> dict[str, float]:
    rows = {name: logs(row) for name, row in tables.items()}
    found = {
        "kl": kl(rows["champion"], rows["candidate"]),
        "kl_original": kl(rows["original"], rows["candidate"]),
        "js": js(rows["champion"], rows["candidate"]),
    }
    for name in NAMES:
        found |= {
            f"nll_{name}": -rows[name][target],
            f"entropy_{name}": -expectation(rows[name], less(rows[name], [0.0] * len(rows[name]))),
            f"confidence_{name}": math.exp(max(rows[name])),
            f"right_{name}": tables[name].index(max(tables[name])) == target,
        }
    return found


@st.composite
def rows(draw: st.DrawFn) -> dict[str, list[float]]:
    """Logits of three models, some of them near one another, some far beyond what a model says, some masked."""
    size = draw(st.integers(2, 12))
    reach = draw(st.sampled_from((1.0, 8.0, 40.0, 1e4)))
    finite = st.floats(-reach, reach, width=32)
    drawn = draw(st.lists(finite, min_size=size, max_size=size))
    found = {"champion": drawn}
    for name in ("candidate", "original"):
        step = draw(st.sampled_from((0.0, 2.0**-10, 0.5, reach)))
        moves = draw(st.lists(st.floats(-step, step, width=32), min_size=size, max_size=size))
        found[name] = [float(torch.tensor(a + b)) for a, b in zip(drawn, moves, strict=True)]
    for row in found.values():
        for place in draw(st.sets(st.integers(1, size - 1), max_size=2)):
            row[place] = -INFINITY
    return found


# Extreme rows end in the same numbers by another way, which an average example does not take.
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(rows(), min_size=1, max_size=3), st.data())
def test_every_number_is_that_of_the_definitions(
    drawn: list[dict[str, list[float]]], data: st.DataObject
) -> None:
    wide = max(len(row["champion"]) for row in drawn)
    for row in drawn:
        for values in row.values():
            values.extend([-INFINITY] * (wide - len(values)))
    targets = [data.draw(st.integers(0, wide - 1)) for _ in drawn]
    tables = {name: torch.tensor([row[name] for row in drawn]) for name in drawn[0]}
    found = compare(tables, torch.tensor(targets))
    for place, (row, target) in enumerate(zip(drawn, targets, strict=True)):
        for name, expected in plain(row, target).items():
            value = float(found[name][place])
            if name.startswith("confidence"):
                assert value == pytest.approx(expected, rel=1e-5), name
            elif name.startswith("right"):
                assert value == expected, name
            else:
                assert value == pytest.approx(expected, rel=1e-6, abs=5e-6 if name != "js" else 2e-6), name
                assert value >= 0, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [3.0, 1e4])
def test_equal_rows_lie_nothing_apart(dtype: torch.dtype, size: float) -> None:
    torch.manual_seed(1)
    table = (torch.randn(70, 2048) * size).to(dtype)
    other = table.clone()
    other[::2] = (other[::2].float() + torch.randn(35, 2048)).to(dtype)
    found = compare({"champion": table, "candidate": other, "original": other.clone()}, torch.arange(70))
    assert set(found["kl"][1::2].tolist()) == set(found["js"][1::2].tolist()) == {0.0}
    assert set(found["kl_original"].tolist()) == {0.0}
    assert float(found["kl"][::2].min()) >= 0
    for name in ("nll", "entropy", "confidence", "right"):
        assert torch.equal(found[f"{name}_champion"][1::2], found[f"{name}_candidate"][1::2])
    for column in found.values():
        assert bool(column.isfinite().all())


@pytest.mark.parametrize("size", [0.01, 3.0])
def test_a_wide_vocabulary_is_summed_within_the_tolerance(size: float) -> None:
    torch.manual_seed(2)
    before = (torch.randn(8, 150_000) * 4).bfloat16()
    after = (before.float() + torch.randn(8, 150_000) * size).bfloat16()
    found = compare({"champion": before, "candidate": after}, torch.arange(8))
    p, q = before.double().log_softmax(-1), after.double().log_softmax(-1)
    middle = torch.logaddexp(p, q) - math.log(2)
    exact = {
        "kl": (p.exp() * (p - q)).sum(-1),
        "js": ((p.exp() * (p - middle)).sum(-1) + (q.exp() * (q - middle)).sum(-1)) / 2,
        "entropy_candidate": -(q.exp() * q).sum(-1),
        "nll_champion": -p[torch.arange(8), torch.arange(8)],
    }
    for name, values in exact.items():
        assert torch.allclose(found[name], values, rtol=1e-6, atol=2e-6 if name == "js" else 5e-6), name


def test_what_a_token_gets_does_not_follow_from_its_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    tables = {name: torch.randn(37, 300) * 5 for name in NAMES}
    targets = torch.randint(0, 300, (37,))
    whole = compare(tables, targets)
    monkeypatch.setattr(comparison, "BLOCK", 300 * 5)
    for name, column in compare(tables, targets).items():
        assert torch.equal(column, whole[name]), name


def test_ruling_out_what_the_champion_finds_possible_is_infinite() -> None:
    champion, candidate = torch.zeros(1, 4), torch.tensor([[0.0, 0.0, 0.0, -INFINITY]])
    found = compare({"champion": champion, "candidate": candidate}, torch.tensor([3]))
    assert float(found["kl"]) == float(found["nll_candidate"]) == INFINITY
    assert 0 < float(found["js"]) < math.log(2)
    other = compare({"champion": candidate, "candidate": champion}, torch.tensor([0]))
    assert float(other["kl"]) == pytest.approx(math.log(4 / 3))


@pytest.mark.parametrize("value", [float("nan"), INFINITY])
@pytest.mark.parametrize("model", NAMES)
def test_what_is_no_number_stays_none(value: float, model: str) -> None:
    tables = {name: torch.randn(3, 8) for name in NAMES}
    tables[model][1, 2] = value
    found = compare(tables, torch.tensor([0, 2, 0]))
    for name in ("kl", "js", f"entropy_{model}", f"confidence_{model}", f"right_{model}"):
        assert not math.isfinite(float(found[name][1])), name
        assert math.isfinite(float(found[name][0])), name


def test_where_every_score_is_no_number_the_first_token_is_not_right() -> None:
    tables = {name: torch.randn(2, 8) for name in NAMES}
    tables["candidate"][0] = float("nan")
    found = compare(tables, torch.tensor([0, 0]))
    assert math.isnan(float(found["right_candidate"][0]))
    assert float(found["right_candidate"][1]) == float(tables["candidate"][1].argmax() == 0)
