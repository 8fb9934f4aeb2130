"""sandbox.worker.learners.recipes: what no learner can be given is refused where interlock.toml is read, with its place."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrails.errors import ConfigError, InvalidInputError
from guardrails.records import ModelKind
from sandbox.config import GAME, load_config
from sandbox.tasks import TASKS
from sandbox.worker import adapters
from sandbox.worker.learners import LEARNERS, recipes
from sandbox.worker.learners.recipes import METHODS, RECIPES, settings_of
from sandbox.worker.learners.settings import read_recipe

EVERY = [
    (technique, kind, method, levels)
    for technique, kinds in RECIPES.items()
    for kind in kinds
    for method in ("", *(METHODS[kind] if technique == "reinforcement" else ()))
    for levels in (("lava",) if kind is ModelKind.LAM else ("",))
] + [("reinforcement", ModelKind.LAM, "expert_iteration", GAME)]
NEVER_NUMBERS = [
    "nan",
    "-nan",
    "inf",
    "-inf",
    "1e309",
    "many",
    "",
    " ",
    "[]",
    "0x10",
    "9" * 399,
    "-1",
    "1e300",
    "true",
]
LEARNER_FILES = [*Path(recipes.__file__).parent.rglob("*.py"), Path(adapters.__file__)]


def toml(technique: str, kind: ModelKind, method: str, levels: str, extra: str) -> str:
    """A configuration whose last line, the ninth, is one setting of the second recipe."""
    task = f'levels = "{levels}"' if levels else 'task = "text"'
    own = f'method = "{method}"' if method else ""
    head = f'[models.m]\nkind = "{kind.value}"\nbase = "x"\n{task}\n'
    other = "[[models.m.recipes]]\ntechnique = 'self_supervised'\n"
    return head + other + f"[[models.m.recipes]]\ntechnique = '{technique}'\n{extra}\n{own}\n"


def settings(case):
    technique, kind, method, levels = case
    return settings_of(technique, kind, method, game=levels == GAME)


def name_of(case) -> str:
    return "-".join(map(str, case))


@pytest.mark.parametrize("case", EVERY, ids=name_of)
def test_no_hostile_value_of_any_setting_gets_past_the_configuration(tmp_path, case):
    """Each key of each recipe: what is no value of it is refused with its place, what is allowed, and its default."""
    file = tmp_path / "interlock.toml"
    for name, setting in settings(case).items():
        if name == "method" and case[2]:
            continue  # stands in the recipe already
        hostile = ["nan"] if setting.words else list(NEVER_NUMBERS)
        if isinstance(setting.default, str) and not setting.words:
            hostile = ["", " "]
        elif not setting.words:
            over = setting.most + 1 if isinstance(setting.default, int) else setting.most * 1.001
            hostile += [f"{over:.9g}", f"{setting.least - 1:g}"]
            hostile += ["0"] if setting.above or setting.least > 0 else []
            hostile += ["2.5", "1e3"] if isinstance(setting.default, int) else []
        for text in hostile:
            file.write_text(toml(*case, f"{name} = '{text}'"), encoding="utf-8")
            with pytest.raises(ConfigError) as caught:
                load_config(tmp_path)
            said = str(caught.value)
            assert f"interlock.toml:9:1: models.m.recipes.{name}: must be {setting.allowed}, not " in said
            assert f"unless {name} is said, it is" in said
            with pytest.raises(InvalidInputError, match=rf"^recipe: {name}: must be "):
                read_recipe({name: text}, settings(case))


@pytest.mark.parametrize("case", EVERY, ids=name_of)
def test_every_default_and_both_ends_of_every_range_are_allowed(tmp_path, case):
    file = tmp_path / "interlock.toml"
    lines = {
        name: f"{name} = {setting.default!r}" for name, setting in settings(case).items() if name != "method"
    }
    file.write_text(toml(*case, "\n".join(lines.values())), encoding="utf-8")
    (_, recipe) = load_config(tmp_path).models["m"].recipes
    assert set(lines) <= set(recipe.settings)
    for setting in settings(case).values():
        assert all(setting.read(text) == text for text in setting.words)
        if not isinstance(setting.default, str):
            kind = type(setting.default)
            assert setting.least < setting.most
            assert setting.above or setting.read(str(kind(setting.least))) == setting.least
            assert setting.below or setting.read(str(kind(setting.most))) == setting.most


@given(value=st.floats(allow_nan=True, allow_infinity=True) | st.integers() | st.text(max_size=8))
def test_what_is_read_lies_in_the_range_whatever_was_said(value):
    for setting in recipes.TEXT.values():
        try:
            got = setting.read(str(value))
        except ValueError:
            continue
        assert type(got) is type(setting.default)
        assert isinstance(got, str) or setting.least <= got <= setting.most


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ('technique = "self_supervised"\nstpes = 3', "6:1", "unknown key (did you mean steps?"),
        ('technique = "reinforcement"', "5:1", ""),
        ('technique = "reinforcement"\nmethod = "magic"', "6:1", "one of policy_gradient, preference, expert_iter"),
        ('technique = "reinforcement"\nmethod = "preference"\nkl = 1', "7:1", "unknown key"),
        ('technique = "alchemy"', "5:1", "no learner is called 'alchemy' (known: active"),
        ('  technique = "self_supervised"\n  lr = 1e300', "6:3", "a number above 0 and at most 1, not '1e+300'"),
        ('technique = "self_supervised"\nlr = -nan', "6:1", "not 'nan'"),
        ('technique = "self_supervised"\nsteps = true', "6:1", "a whole number from 1 to 1000000, not 'true'"),
    ],
)  # fmt: skip
def test_a_fault_is_placed_and_says_what_to_do(tmp_path, text, place, said):
    head = '[models.m]\nkind = "llm"\nbase = "x"\n[[models.m.recipes]]\n'
    (tmp_path / "interlock.toml").write_text(head + text + "\n", encoding="utf-8")
    if not said:
        assert load_config(tmp_path).models["m"].recipes
        return
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path)
    assert f"interlock.toml:{place}: models.m.recipes." in str(caught.value)
    assert said in str(caught.value)


def test_a_recipe_in_one_line_is_placed_within_it(tmp_path):
    text = (
        '[models.m]\nkind = "llm"\nbase = "x"\nrecipes = [{technique = "self_supervised", rank = 99999999}]\n'
    )
    (tmp_path / "interlock.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"interlock\.toml:4:44: models\.m\.recipes\.rank: must be a whole"):
        load_config(tmp_path)


def test_every_technique_has_a_recipe_for_the_kinds_that_it_has_learners_for():
    assert {name: set(kinds) for name, kinds in RECIPES.items()} == {
        name: set(kinds) for name, kinds in LEARNERS.items()
    }
    assert GAME in TASKS


def test_no_learner_reads_a_setting_that_no_recipe_has_and_every_technique_reads_all_of_its_own():
    """A key that no table names could never be set; one that nobody reads would be set for nothing."""
    named = re.compile(r"""recipe(?:\[|\.get\()"(\w+)"|settings\.pop\("(\w+)\"""")
    sources = "".join(path.read_text("utf-8") for path in LEARNER_FILES)
    read = {one or other for one, other in named.findall(sources)}
    known = {name for case in EVERY for name in settings(case)}
    assert read == known
