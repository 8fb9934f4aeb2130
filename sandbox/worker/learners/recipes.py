"""Recipes: which settings each technique has on each kind of model, their defaults, and what they may be.

Invariants: every key that a learner reads stands here, and no other; nothing that computes is imported.

The ranges are there to catch slips, not to advise: whatever lies in one is carried out, or fails with a reason on record.
"""

from __future__ import annotations

from guardrails.records import ModelKind
from sandbox.worker.environments import lava
from sandbox.worker.learners.forms import ADAPTER, AVERAGE, FULL
from sandbox.worker.learners.language.rewards import REWARDS
from sandbox.worker.learners.settings import (
    Setting,
    Settings,
    count,
    number,
    positive,
    share,
    word,
)
from sandbox.worker.questions import MAX_QUESTIONS

SELF_PLAY, EXPERT_ITERATION = "self_play", "expert_iteration"
POLICY_GRADIENT, PREFERENCE = "policy_gradient", "preference"
ATTENTION = "q_proj,v_proj"
EVERY_PROJECTION = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"


def _rate(default: float) -> Setting:
    """The highest learning rate."""
    return positive(default, 1.0)


def _weight(default: float) -> Setting:
    """Of one part of a loss, or a price."""
    return number(default, 1000.0)


def _updates(lr: float, warmup: float = 0.1) -> dict[str, Setting]:
    """Of AdamW as ``language.updates`` takes its steps."""
    return {
        "lr": _rate(lr),  # the highest learning rate
        "warmup": share(
            warmup
        ),  # share of the steps in which the rate rises; then it falls to zero in a line
        "weight_decay": number(0.0, 100.0),
        "clip": positive(1.0, 1e6),  # highest norm of a gradient
    }


def _adapter(rank: int, targets: str) -> dict[str, Setting]:
    return {
        "rank": count(rank, most=4096),
        "alpha": count(2 * rank, most=65536),
        "targets": Setting(targets),  # projections that get an adapter
        "dtype": word("auto", "bfloat16", "float32"),  # of the frozen weights; the adapter is always float32
    }


def _form(default: str, rank: int = 16, targets: str = EVERY_PROJECTION) -> dict[str, Setting]:
    """What is trained: ``forms``."""
    others = [form for form in (ADAPTER, FULL, AVERAGE) if form != default]
    return {"form": word(default, *others), **_adapter(rank, targets)}


_LENGTH = count(64, least=2, most=131_072)
_TEMPERATURE = (0.01, 100.0)  # below it, differences of scores leave the range of numbers


def _temperature(default: float) -> Setting:
    return number(default, _TEMPERATURE[1], least=_TEMPERATURE[0])


def _forms(default: int) -> Setting:
    """Rotations and mirror images in which a level is learnt from; 1: as it is."""
    return count(default, most=lava.FORMS)


# --- language models --------------------------------------------------------------------------

TEXT: Settings = {
    "steps": count(40),  # updates
    "batch": count(8),  # records in one update
    "length": _LENGTH,  # tokens of a record that are read; the rest is cut
    **_updates(2e-4),
    **_form(ADAPTER, rank=8, targets=ATTENTION),
    # share of each update's records that are of controls, against forgetting (config: replay)
    "replay": Setting(0.0, 0.0, 1.0, below=True),
}

TRANSFER: Settings = {
    "start": word("champion", "scratch"),
    "steps": count(80),  # updates
    "batch": count(32),  # records in one update
    "length": _LENGTH,  # tokens of a record that are read; the rest is cut
    **_updates(5e-3),
    **_form(ADAPTER),
}

META: Settings = {
    "method": word("reptile", "joint"),
    "rounds": count(80),  # visits
    "inner": count(6),  # updates in one visit
    "batch": count(32),  # records in one update
    "length": _LENGTH,  # tokens of a record that are read; the rest is cut
    **_updates(2e-3),  # the rate is that of the updates in a visit (joint: the highest), warmup is for joint
    "step": positive(
        0.5, 1.0
    ),  # part of the way that is moved after the first visit; falls to zero in a line
}

ASKING_TEXTS: Settings = {
    "query": word("uncertainty", "random"),  # which prompts are asked about
    "ask": count(64, most=MAX_QUESTIONS),  # questions in one round
    "pool": count(1000),  # prompts that are looked at for them
    "answer_tokens": count(24, most=4096),  # how much of the model's own answer is looked at
    "steps": count(60),  # updates
    "batch": count(32),  # answers in one update
    "rehearsed": count(32, least=0),  # rows in one update on which it is kept as it was; 0: none
    "keep": _weight(1.0),  # of keeping it as it was
    **_updates(2e-3),
    **_adapter(16, "q_proj,k_proj,v_proj,o_proj,up_proj,down_proj,gate_proj"),
}

_SAMPLED: Settings = {
    "steps": count(40),  # updates
    "prompts": count(32),  # prompts in one update
    "group": count(8, most=4096),  # answers to each of them
    "answer_tokens": count(8, most=4096),  # how long an answer may be
    "temperature": _temperature(0.6),  # of sampling, and of the loss of a policy gradient
    **_updates(2e-4, warmup=0.15),
    **_form(FULL),
}

REWARDED: Settings = {
    **_SAMPLED,
    "reward": word("places", *(name for name in REWARDS if name != "places")),
    "group": count(8, least=2, most=4096),  # one answer has nothing to be compared with
    "kl": _weight(0.05),  # price of a nat away from the champion, per token
}

IMITATED: Settings = {
    **_SAMPLED,
    "reward": word("exact", *(name for name in REWARDS if name != "exact")),  # answers that earn 1 are kept
}

PREFERRED: Settings = {
    "ask": count(100, most=MAX_QUESTIONS),  # choices asked for in one round
    "pool": count(400),  # prompts looked at for them; asked about is where the model is most divided
    "samples": count(8, least=2, most=4096),  # answers to a prompt; the two most frequent are the choice
    "answer_tokens": count(24, most=4096),  # how long an answer may be
    "temperature": _temperature(0.7),  # of sampling
    "beta": positive(0.1, 1000.0),  # how dear it is to move away from the champion
    "imitation": _weight(0.2),  # of imitating what was chosen
    "rehearsed": count(32, least=0),  # of the champion's words in one update, to which it is kept; 0: none
    "keep": _weight(1.0),  # of keeping to them
    "steps": count(40),  # updates
    "batch": count(32),  # choices in one update
    **_updates(2e-4, warmup=0.15),
    **_form(FULL),
}

# --- action models in levels ------------------------------------------------------------------

RECORDINGS: Settings = {
    "predict": word("action", "observation", "both"),
    "aim": word("auto", "recorded", "hindsight"),
    "walks": count(3, most=1000),  # recordings in each level, where the records hold none
    "length": count(40, most=1000),  # actions in such a recording
    "reach": count(12, most=1000),  # actions in the longest stretch that is learnt from
    "stretches": count(40, most=10_000),  # stretches of one level that are learnt from
    "updates": count(150),
    "batch": count(96),
    "lr": _rate(2e-3),
    "replay": Setting(
        0.0, 0.0, 1.0, below=True
    ),  # share of the predicted actions that are the champion's own
}

TRANSFER_IN_LEVELS: Settings = {
    "form": word(FULL, ADAPTER),  # full: every weight learns; adapter: only a low-rank addition
    "start": word("champion", "scratch"),  # scratch: to see what is owed to the champion
    "demonstrations": count(0, least=0),  # so many of the records' are used, the first ones; 0: all
    "forms": _forms(4),
    "updates": count(150),
    "batch": count(96),  # observations in one update
    "lr": _rate(2e-3),  # highest learning rate
    "rank": count(8, most=4096),  # of an adapter
    "alpha": count(16, most=65536),
    "targets": Setting(EVERY_PROJECTION),
}

META_IN_LEVELS: Settings = {
    "method": word("rescale", "reptile", "joint"),
    "rounds": count(150),  # times that one family is visited (reptile, joint)
    "inner": count(20),  # updates in one visit
    "shots": count(16, least=0),  # demonstrations that one visit may learn from; 0: all of the family
    "batch": count(64),  # observations in one update
    "lr": _rate(3e-3),  # of the updates in a visit (joint: the highest rate)
    "step": positive(0.5, 1.0),  # reptile: part of the way after the first visit; falls to zero in a line
    "forms": _forms(1),
}

ASKING_STATES: Settings = {
    "query": word("entropy", "random"),
    "labels": count(80, most=MAX_QUESTIONS),  # questions in one batch
    "budget": count(240, least=0),  # questions in all; beyond it nothing more is asked
    "levels": count(200),  # training levels that are played to find states
    "form": word("head", FULL),  # head: only the three rows of weights that say an action learn
    "updates": count(200),
    "batch": count(96),  # answers in one update, and as many states in which the champion is the teacher
    "lr": _rate(3e-2),  # of a head; a whole model takes a tenth of it or less
    "keep": _weight(0.3),  # of what the champion would do
}

_PLAYED: Settings = {
    "iterations": count(20),  # rounds of playing and updating
    "layouts": count(160),  # layouts drawn in one iteration
    "forms": _forms(8),  # each is played in one of its first so many rotations and mirror images
    "episodes": count(5, most=1000),  # episodes on each of them
    "batch": count(256),  # observations in one update
    "lr": _rate(1e-3),  # the highest; rises over the first tenth, then falls to zero in a line
    "temperature": _temperature(1.0),  # of sampling
}

RETURN_AND_COST: Settings = {
    **_PLAYED,
    "episodes": count(5, least=2, most=1000),  # one has nothing to be compared with
    "epochs": count(3, most=1000),  # passes over one iteration's observations
    "clip": positive(0.2, 10.0),  # how far a probability ratio may move in one iteration
    "entropy": _weight(0.005),  # reward for keeping options open
    "discount": positive(0.99, 1.0),  # of the final reward, per step before the end
    "temperature": _temperature(1.0),  # of sampling and of the loss, in the first iteration
    "final_temperature": _temperature(0.5),  # in the last; greedy play, as served, is temperature 0
    "time_cost": _weight(0.5),  # taken off the reward for success at the last possible step
    "lava_penalty": _weight(1.0),
    "timeout_penalty": _weight(1.0),
}

IMITATED_IN_LEVELS: Settings = {
    **_PLAYED,
    "keep": word("best", "all"),  # best: the shortest good episode of each level; all: every good one
    "epochs": count(1, most=1000),  # passes over one iteration's observations
}

# --- action models in games -------------------------------------------------------------------

PLAYED_AGAINST_ITSELF: Settings = {
    "iterations": count(28),  # rounds of playing and updating
    "games": count(128, least=4),  # games in one iteration: two sides against two kinds of opponent
    "pool": share(0.5),  # share of them against the pool; 0: only against oneself
    "keep_every": count(6, least=0),  # iterations until a copy joins the pool; 0: it holds the champion alone
    "epochs": count(2, most=1000),  # passes over one iteration's positions
    "batch": count(256),  # positions in one update
    "lr": _rate(1.5e-3),  # the highest; rises over the first tenth, then falls to zero in a line
    "clip": positive(0.2, 10.0),  # how far a probability ratio may move in one iteration
    "entropy": _weight(0.01),  # reward for keeping options open
    "trace": share(0.9),  # lambda: 1 trusts the ends of games alone, 0 the next position's value alone
    "value": _weight(0.5),  # of the value's loss
    "temperature": _temperature(1.0),  # of sampling and of the loss
}

SEARCHED: Settings = {
    "iterations": count(14),  # rounds of playing and imitating
    "games": count(64),  # games in one iteration
    "simulations": count(16, most=100_000),  # steps of the search before each move
    "curiosity": positive(
        1.5, 1000.0
    ),  # how much it follows what is likely or little tried, not what went well
    "noise": share(0.25),  # of the chances of the move to be made, so that games differ
    "window": count(4, most=1000),  # iterations whose games are learnt from, the latest
    "epochs": count(1, most=1000),  # passes over their positions
    "batch": count(256),  # positions in one update
    "lr": _rate(3e-3),  # the highest; rises over the first tenth, then falls to zero in a line
    "trace": share(0.5),  # of the game's end in what a position was worth; the rest is the search's
    "value": _weight(0.5),  # of the value's loss
}

# --- which is whose ---------------------------------------------------------------------------

RECIPES: dict[str, dict[ModelKind, Settings]] = {
    "active": {ModelKind.LLM: ASKING_TEXTS, ModelKind.LAM: ASKING_STATES},
    "meta": {ModelKind.LLM: META, ModelKind.LAM: META_IN_LEVELS},
    "reinforcement": {ModelKind.LLM: REWARDED, ModelKind.LAM: RETURN_AND_COST},
    "self_supervised": {ModelKind.LLM: TEXT, ModelKind.LAM: RECORDINGS},
    "transfer": {ModelKind.LLM: TRANSFER, ModelKind.LAM: TRANSFER_IN_LEVELS},
}
"""Technique → kind of model → its settings, of ``reinforcement`` without a ``method``."""

METHODS: dict[ModelKind, dict[str, Settings]] = {
    ModelKind.LLM: {POLICY_GRADIENT: REWARDED, PREFERENCE: PREFERRED, EXPERT_ITERATION: IMITATED},
    ModelKind.LAM: {EXPERT_ITERATION: IMITATED_IN_LEVELS, SELF_PLAY: PLAYED_AGAINST_ITSELF},
}
"""Kind of model → what ``method`` of ``reinforcement`` may be, and its settings."""


def settings_of(technique: str, kind: ModelKind, method: str = "", *, game: bool = False) -> Settings:
    """The settings of one of our techniques; ``game``: of an action model that plays one, not in levels.

    Of a ``method`` that there is not, ``method`` itself is what does not fit.

    Raises:
        KeyError: it is none of our techniques, or not one for this kind of model.
    """
    plain = RECIPES[technique][kind]
    if technique != "reinforcement":
        return plain
    methods = METHODS[kind]
    chosen = SEARCHED if game and method == EXPERT_ITERATION else methods.get(method, plain)
    default = POLICY_GRADIENT if kind is ModelKind.LLM else ""
    return {"method": Setting(default, words=tuple(methods)), **chosen}
