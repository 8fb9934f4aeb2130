"""sandbox.config: strict, and each error names file and line."""

import shutil
from pathlib import Path

import pytest

from guardrails.errors import ConfigError
from guardrails.records import ModelKind
from sandbox.config import load_config

DEFAULT = Path(__file__).parent.parent / "sandbox" / "default.toml"
MODEL = '[models.m]\nkind = "llm"\nbase = "shipped:tiny"\n'


def written(folder: Path, text: str) -> Path:
    (folder / "interlock.toml").write_text(text, encoding="utf-8")
    return folder


def test_the_shipped_configuration_is_valid(tmp_path):
    shutil.copy(DEFAULT, tmp_path / "interlock.toml")
    config = load_config(tmp_path)
    assert set(config.models) == {"navigator", "assistant"}
    assert config.models["navigator"].kind is ModelKind.LAM
    assert config.models["assistant"].recipes[0].technique == "self_supervised"


def test_recipes_keep_their_order_and_pass_settings_as_text(tmp_path):
    text = (
        MODEL
        + '[[models.m.recipes]]\ntechnique = "a:a"\nlr = 0.1\non = true\n[[models.m.recipes]]\ntechnique = "meta"\n'
    )
    recipes = load_config(written(tmp_path, text)).models["m"].recipes
    assert [recipe.technique for recipe in recipes] == ["a:a", "meta"]
    assert recipes[0].settings == {"lr": "0.1", "on": "true"}


def test_a_model_trains_on_the_processor_unless_it_names_a_gpu(tmp_path):
    assert load_config(written(tmp_path, MODEL)).models["m"].gpu is None
    assert load_config(written(tmp_path, MODEL + "gpu = 0\n")).models["m"].gpu == 0


def test_the_origin_of_a_value_is_known(tmp_path):
    assert load_config(written(tmp_path, MODEL)).origin["models.m.base"] == "interlock.toml:3"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (MODEL + 'tarin = ["x.txt"]\n', 4, "did you mean train"),
        (MODEL + "items = 0\n", 4, "at least 1"),
        (MODEL + 'items = "many"\n', 4, "wrong type"),
        (MODEL + "items = true\n", 4, "wrong type"),
        (MODEL + "gpu = -1\n", 4, "at least 0"),
        (MODEL + 'gpu = "cuda:0"\n', 4, "wrong type"),
        ('[models.m]\nkind = "robot"\nbase = "x"\n', 2, "llm or lam"),
        ('[models.m]\nkind = "llm"\n', 1, "base is missing"),
        ('[models."M!"]\nkind = "llm"\nbase = "x"\n', 1, "not a usable name"),
        ("[loops]\n", 1, "did you mean loop"),
        (MODEL + "[[models.m.recipes]]\nsteps = 3\n", 4, "needs a technique"),
        ('[learners.x]\ncommand = "rm"\n', 2, "wrong type"),
        ("[learners.x]\n", 1, "list of one or more texts"),
        ("[learners.x]\ncommand = []\n", 2, "list of one or more texts"),
        ('[learners.x]\ncommand = ["a", 1]\n', 2, "list of one or more texts"),
        ('[learners.x]\ncommand = [""]\n', 2, "a program first"),
        ('[learners.x]\ncommand = ["a\\u0000"]\n', 2, "NUL"),
        ('[learners.x]\ncommand = ["a"]\nfile = "x"\n', 3, "did you mean files"),
        ('[learners.x]\ncommand = ["a"]\nfiles = ""\n', 3, "directory"),
        ('[learners.x]\ncommand = ["a"]\nlimits = {wall = 3}\n', 3, "unknown key"),
        ('[learners.x]\ncommand = ["a"]\n[learners.x.limits]\nwall_s = 0\n', 4, "above 0"),
        ('[learners."X Y"]\ncommand = ["a"]\n', 1, "not a usable name"),
        (MODEL + "limits = {cpu_s = -1}\n", 4, "above 0"),
        (
            MODEL
            + '[[models.m.recipes]]\ntechnique = "meta"\n[[models.m.recipes]]\ntechnique = "command:gone"\n',
            7,
            "no learner command:gone",
        ),
    ],
)
def test_errors_say_where_and_what(tmp_path, text, line, said):
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, text))
    assert f"interlock.toml:{line}:" in str(caught.value)
    assert said in str(caught.value)


def test_learners_are_programs_with_files_and_limits_of_their_own(tmp_path):
    text = (
        '[learners.x]\ncommand = ["python", "train.py"]\nfiles = "mine"\nlimits = {wall_s = 60}\n'
        + MODEL
        + '[[models.m.recipes]]\ntechnique = "command:x"\nsteps = 3\n'
    )
    config = load_config(written(tmp_path, text))
    learner = config.learners["x"]
    assert (learner.command, learner.files) == (("python", "train.py"), tmp_path / "mine")
    assert learner.limits.wall_s == 60
    recipe = config.models["m"].recipes[0]
    assert (recipe.technique, recipe.settings, recipe.learner) == ("command:x", {"steps": "3"}, learner)


@pytest.mark.parametrize("text", ["[models", "\x00", "a = 1\na = 2\n", "[models.m]\nkind = 1979-05-27\n"])
def test_what_is_no_configuration_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match=r"interlock\.toml"):
        load_config(written(tmp_path, text))


def test_a_missing_file_says_what_to_run(tmp_path):
    with pytest.raises(ConfigError, match="interlock init"):
        load_config(tmp_path)
