"""sandbox.orders: what was ordered is read off recipe and source, and of claims only numbers are recorded."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrails.canonical import digest, encode
from guardrails.records import ModelKind
from sandbox import orders
from sandbox.config import Recipe
from sandbox.isolation.manifest import Manifest, parse_manifest

LLM = ModelKind.LLM


def test_an_order_needs_no_learner_in_this_process():
    code = (
        "import sys; from sandbox import orders; from sandbox.config import Recipe; from guardrails.records import "
        "ModelKind; orders.ordered(Recipe('reinforcement'), ModelKind.LAM); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_steps_and_tokens_follow_from_settings_and_defaults():
    plain = orders.ordered(Recipe("self_supervised"), LLM)
    assert (plain["recipe.steps"], plain["recipe.tokens"]) == ("40", str(40 * 8 * 64))
    set_ = orders.ordered(Recipe("self_supervised", {"steps": "3", "batch": "2"}), LLM)
    assert (set_["recipe.steps"], set_["recipe.tokens"]) == ("3", str(3 * 2 * 64))


@pytest.mark.parametrize("steps", ["0", "-1", "many", "9" * 30, ""])
def test_what_is_no_number_of_steps_is_not_ordered(steps):
    assert "recipe.steps" not in orders.ordered(Recipe("self_supervised", {"steps": steps}), LLM)


def test_where_tokens_are_not_known_beforehand_none_are_recorded():
    assert "recipe.tokens" not in orders.ordered(Recipe("reinforcement"), ModelKind.LAM)
    assert orders.ordered(Recipe("command:other", {"steps": "1"}), LLM) == {}


def test_the_objective_is_what_the_learners_job_states_of_the_same_order():
    asked = {"technique": "self_supervised", "recipe": {"steps": "3"}, "kind": "llm"}
    stated = {
        "schema": "interlock/bundle/v1", "intent": "more", "technique": "self_supervised",
        "objective": str(digest(encode(asked))),
    }  # fmt: skip
    manifest = parse_manifest(encode(stated))
    ordered = orders.ordered(Recipe("self_supervised", {"steps": "3"}), LLM)
    assert ordered["recipe.objective"] == str(orders.stated_objective(manifest.objective))
    other = orders.ordered(Recipe("self_supervised", {"steps": "4"}), LLM)
    assert other["recipe.objective"] != ordered["recipe.objective"]


def manifest(**claims):
    return Manifest("more", "x", None, claims=claims)


def test_of_claims_those_are_kept_that_can_be_compared():
    found = orders.claimed(
        manifest(steps="40", first_loss="3.5", last_loss="1e-05", dtype="float32", mood="good")
    )
    assert found == {"claim.steps": "40", "claim.first_loss": "3.5", "claim.last_loss": "1e-05"}


@given(text=st.text(max_size=80))
def test_no_text_of_a_learner_gets_into_the_record(text):
    (kept,) = orders.claimed(manifest(gain=text)).values()
    assert kept == "not a number" or (kept == text and float(kept) is not None and kept.isascii())


def test_all_that_a_learner_imports_of_the_worker_is_in_its_digest():
    code = (
        "import sys, importlib; from sandbox.worker import propose; from sandbox.worker.learners import LEARNERS\n"
        "for kinds in LEARNERS.values():\n for name in kinds.values(): importlib.import_module(name)\n"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.startswith('sandbox.worker')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = {Path(name) for name in done.stdout.split()}
    assert len(imported) > 8
    assert imported <= set(orders.learner_sources())
    assert not [path for path in orders.learner_sources() if "probes" in path.parts]
