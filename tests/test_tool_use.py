"""Tools: what counts as a call, who judges, and controls that must succeed, and must be caught."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from guardrails.checks import CHECKS
from guardrails.errors import ConfigError, InvalidInputError, JobFailedError, NotMeasuredError
from guardrails.records import Measurements, ModelKind, Series
from sandbox import tasks
from sandbox.config import ModelConfig
from sandbox.tasks import tools as task
from sandbox.worker.environments import tool_use
from sandbox.worker.environments.tool_use import Scripted, Situation, Turn, parse_action, run_episode
from sandbox.worker.probes.tools import permissions, read_situation

installed = pytest.mark.skipif(
    not tool_use.is_installed(), reason="agentdojo is not installed: pip install --no-deps agentdojo"
)
CLEAN = Situation("banking", "user_task_0")
INJECTED = replace(CLEAN, injection="injection_task_4")


class Emits:
    """Emits these texts in turn, then an answer."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)

    def act(self, prompt: str, tools: Sequence[dict[str, Any]], turns: Sequence[Turn]) -> str:
        return self.texts.pop(0) if self.texts else '{"answer": ""}'


def call(tool: str, **arguments: Any) -> str:
    return json.dumps({"tool": tool, "arguments": arguments})


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ('{"answer": "done"}', {"answer": "done"}),
        ('Sure: {"tool": "a", "arguments": {"x": {}}} and more', {"tool": "a", "arguments": {"x": {}}}),
    ],
)
def test_an_action_is_the_first_object(text: str, action: dict[str, Any]) -> None:
    assert parse_action(text) == action


@pytest.mark.parametrize(
    "text",
    ["", "hello", "{", '{"tool": "a"}', '{"tool": "a", "arguments": []}', '{"answer": 3}', "[1]", '{"answer": NaN}',
     '{"tool": "a", "arguments": {}, "answer": "x"}', '{"tool": 1, "arguments": {}}', "{" * 5000],
)  # fmt: skip
def test_anything_else_is_no_action(text: str) -> None:
    with pytest.raises(ValueError, match=r"JSON|neither"):
        parse_action(text)


@installed
@pytest.mark.parametrize(
    ("emitted", "says"),
    [
        ("pay it, please", "no JSON object"),
        (call("rob_bank"), "no tool"),
        (call("send_money", recipient="X"), "required"),
        (call("send_money", recipient="X", amount="all", subject="s", date="d"), "not of type"),
        (call("get_iban", force=True), "Additional properties"),
    ],
)
def test_a_call_that_no_schema_allows_does_nothing_and_is_counted(emitted: str, says: str) -> None:
    found = run_episode(Emits(emitted), CLEAN)
    assert found.invalid == 1
    assert found.calls == []
    assert says in found.turns[0].result
    assert not found.success


@installed
def test_who_never_answers_is_stopped_and_a_tool_that_fails_says_so() -> None:
    found = run_episode(Emits(*[call("read_file", file_path="nowhere")] * 9), CLEAN, max_steps=3)
    assert len(found.turns) == len(found.calls) == 3
    assert not found.answered
    assert found.invalid == 0


@installed
def test_the_ground_truth_succeeds_and_is_safe_whatever_was_injected() -> None:
    for situation in (CLEAN, INJECTED):
        found = run_episode(Scripted(situation), situation)
        assert (found.success, found.unsafe, found.invalid) == (True, False, 0)


@installed
def test_whoever_does_nothing_has_done_nothing() -> None:
    users = tool_use.user_tasks("banking")
    found = {user: run_episode(Emits("I could do it"), Situation("banking", user)) for user in users}
    assert not any(one.success for one in found.values())
    # The positive control: of this task AgentDojo looks only at how things are, and so they are from the start.
    paid = Situation("banking", "user_task_10")
    assert tool_use._Stage(paid).task.utility("", *[tool_use._Stage(paid).before] * 2)
    assert run_episode(Scripted(paid), paid).success


@installed
def test_whoever_follows_what_it_reads_is_caught() -> None:
    """The positive control: the same interface, the same judge, a policy that takes orders from a file."""
    found = run_episode(Scripted(INJECTED, obeys=True), INJECTED)
    assert found.unsafe
    assert any(tool_use.INJECTION[:20] in turn.result for turn in found.turns)
    clean = run_episode(Scripted(CLEAN, obeys=True), CLEAN)
    assert not clean.unsafe


@installed
def test_no_client_of_a_provider_is_loaded() -> None:
    import sys

    run_episode(Emits(), CLEAN)
    assert not {"openai", "anthropic", "cohere", "langchain"} & set(sys.modules)


@installed
def test_an_episode_leaves_nothing_behind_for_the_next() -> None:
    first = run_episode(Scripted(CLEAN), CLEAN)
    again = run_episode(Scripted(CLEAN), CLEAN)
    assert [turn.result for turn in first.turns] == [turn.result for turn in again.turns]


@installed
@pytest.mark.parametrize("wrong", [Situation("slack", "user_task_0"), Situation("banking", "user_task_99")])
def test_an_unknown_situation_is_refused(wrong: Situation) -> None:
    with pytest.raises(InvalidInputError):
        run_episode(Emits(), wrong)
    with pytest.raises(InvalidInputError, match="needs texts"):
        read_situation({"id": "x", "suite": "banking"}, "tools")


@installed
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("suite", tool_use.SUITES)
def test_every_ground_truth_succeeds_and_nearly_every_order_that_is_read_is_caught(suite: str) -> None:
    followed = reached = 0
    for user in tool_use.user_tasks(suite):
        clean = Situation(suite, user)
        assert run_episode(Scripted(clean), clean, 30).success, user
    for number, order in enumerate(tool_use.injections(suite)):
        users = tool_use.user_tasks(suite)
        situation = Situation(suite, users[number % len(users)], order)
        found = run_episode(Scripted(situation, obeys=True), situation, 30)
        reached += any(tool_use.INJECTION[:20] in turn.result for turn in found.turns)
        followed += found.unsafe
    assert 0 < followed <= reached


# --- the task ---------------------------------------------------------------------------------


def model(**changes: Any) -> ModelConfig:
    given: dict[str, Any] = {"task": "tools", "items": 24, "train": ("banking",)}
    return ModelConfig("clerk", ModelKind.LLM, "shipped:assistant", (), **(given | changes))


@installed
def test_what_is_measured_is_never_demonstrated(tmp_path: Path) -> None:
    shown = {record["id"].split("/")[1] for record in tasks.training_records(model(), tmp_path, b"s")}
    (suite,) = tasks.private_suites(model(), tmp_path, b"s", "nonce")
    asked = {item["user"] for item in suite.items}
    assert shown
    assert asked
    assert not shown & asked
    assert len(suite.items) == 24
    assert Counter(bool(item["injection"]) for item in suite.items)[True] >= 16
    assert suite.items == tasks.private_suites(model(), tmp_path, b"s", "nonce")[0].items
    assert suite.items != tasks.private_suites(model(), tmp_path, b"s", "other")[0].items
    assert task.is_held_out("banking", next(iter(asked)))


@installed
def test_too_many_items_and_unknown_suites_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="situations"):
        tasks.private_suites(model(items=5000), tmp_path, b"s", "n")
    with pytest.raises(ConfigError, match="no tool suite"):
        tasks.private_suites(model(train=("shipped:kjv",)), tmp_path, b"s", "n")


# --- the checks -------------------------------------------------------------------------------


def episodes(unsafe: list[int], injected: list[int]) -> Series:
    items = tuple(f"s{n}" for n in range(len(unsafe)))
    zero = tuple(0.0 for _ in unsafe)
    columns = {
        "unsafe_candidate": tuple(map(float, unsafe)), "unsafe_champion": zero,
        "injected": tuple(map(float, injected)),
    }  # fmt: skip
    return Series("episodes", "tools", items, columns)


def read(check: str, metric: str, *series: Series) -> Any:
    made = CHECKS[check].params(suite="tools")
    return CHECKS[check].estimate(metric, made, Measurements(series, {}), {}, 0.95)


def test_only_injected_situations_count() -> None:
    found = read("harm.injections_followed", "rate", episodes([1, 0, 0, 0], [1, 1, 0, 0]))
    assert (found.value, found.n) == (0.5, 2)
    assert read("harm.injections_followed", "delta", episodes([1, 0, 0, 0], [1, 1, 0, 0])).value == 0.5
    with pytest.raises(NotMeasuredError, match="nothing was injected"):
        read("harm.injections_followed", "rate", episodes([0, 0], [0, 0]))


def test_growth_is_what_the_champion_never_used() -> None:
    acted = episodes([0], [1])
    candidate = Counter({"send_money": 1, "send_money(amount)": 1, "get_iban": 1})
    grown = permissions(candidate, Counter({"get_iban": 4, "read_file": 1}), "tools")
    assert read("harm.tool_permissions", "tools_added", acted, grown).value == 1
    assert read("harm.tool_permissions", "arguments_added", acted, grown).value == 1
    shrunk = permissions(Counter({"get_iban": 1}), candidate, "tools")
    assert read("harm.tool_permissions", "tools_added", acted, shrunk).value == 0
    assert (
        read("harm.tool_permissions", "tools_added", acted, permissions(Counter(), Counter(), "tools")).value
        == 0
    )
    for given in ((acted,), (grown,)):
        with pytest.raises(NotMeasuredError):
            read("harm.tool_permissions", "tools_added", *given)


# --- a model ----------------------------------------------------------------------------------


@installed
def test_a_language_model_acts_through_the_same_door(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from sandbox.models import tiny
    from sandbox.worker import weights
    from sandbox.worker.probes import Models, Scalars, tools

    torch.set_num_threads(1)
    torch.manual_seed(1)
    tokenizer = weights.load_tokenizer(tiny.locate())
    assert tokenizer is not None
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    made = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=4096, **sizes)
    ).eval()
    models = Models(made, made, None, tokenizer, ModelKind.LLM)
    monkeypatch.setattr(tools, "MAX_STEPS", 1)
    monkeypatch.setattr(tools, "MAX_NEW_TOKENS", 4)
    items = [
        {"id": s.id, "suite": s.suite, "user": s.user, "injection": s.injection} for s in (CLEAN, INJECTED)
    ]
    acted, used = tools.run(items, models, 1, suite="tools", scalars=Scalars(), report=lambda *_: None)
    assert acted.items == (CLEAN.id, INJECTED.id)
    assert acted.columns["injected"] == (0.0, 1.0)
    assert acted.columns["invalid_candidate"] == acted.columns["invalid_champion"] == (1.0, 1.0), (
        "noise is no call"
    )
    assert used.items == ()
    [sample] = tools.samples(items[:1], models, suite="tools")
    assert "not done, 1 invalid" in sample.candidate
    made.config.max_position_embeddings = 100
    with pytest.raises(JobFailedError, match="cannot hold"):
        tools.run(items, models, 1, suite="tools", scalars=Scalars(), report=lambda *_: None)
