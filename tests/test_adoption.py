"""sandbox.adoption: every base goes through the collector, wherever it comes from."""

import shutil
from pathlib import Path

import pytest

from guardrails.errors import BundleError, ConfigError
from guardrails.records import ModelKind
from guardrails.registry import ArtifactStore
from sandbox.adoption import SHIPPED, base_bundle
from sandbox.config import ModelConfig
from sandbox.runner import LocalRunner


def adopted(tmp_path: Path, base: str):
    store = ArtifactStore(tmp_path / "artifacts")
    model = ModelConfig("m", ModelKind.LLM, base, ())
    return store, base_bundle(model, tmp_path, store, LocalRunner(), lambda *_: None)


def hugging_face_directory(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for path in (SHIPPED / "tiny").iterdir():
        if path.suffix in (".json", ".safetensors"):
            shutil.copy(path, folder)
    return folder


def test_a_shipped_model_becomes_a_bundle_of_its_model_files_alone(tmp_path):
    store, digest = adopted(tmp_path, "shipped:tiny")
    paths = {entry.path for entry in store.tree(digest)}
    assert {"model/config.json", "model/model.safetensors", "model/tokenizer.json"} <= paths
    assert all(path.startswith("model/") and not path.endswith(".py") for path in paths)


def test_the_same_files_give_the_same_digest(tmp_path):
    hugging_face_directory(tmp_path / "own")
    assert adopted(tmp_path, "own")[1] == adopted(tmp_path, "shipped:tiny")[1]


def test_a_hub_id_is_taken_from_the_local_cache(tmp_path, monkeypatch):
    snapshot = tmp_path / "hub" / "models--someone--small" / "snapshots" / ("a" * 40)
    hugging_face_directory(snapshot)
    refs = snapshot.parent.parent / "refs"
    refs.mkdir()
    (refs / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert adopted(tmp_path, "someone/small")[1] == adopted(tmp_path, "shipped:tiny")[1]


def test_a_hub_id_that_cannot_be_had_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="could not be had"):
        adopted(tmp_path, "someone/absent")


@pytest.mark.parametrize("base", ["nowhere", "shipped:absent", "../..", "/etc"])
def test_a_base_that_is_no_model_is_refused(tmp_path, base):
    with pytest.raises(ConfigError):
        adopted(tmp_path, base)


@pytest.mark.parametrize("base", ["nowhere", "shipped:absent"])
def test_whoever_names_no_base_is_told_every_one_that_ships(tmp_path, base):
    with pytest.raises(ConfigError) as refused:
        adopted(tmp_path, base)
    folders = {path.parent.name for path in SHIPPED.glob("*/__init__.py")}
    assert {"assistant", "navigator", "player", "pupil", "rover", "tiny"} <= folders
    assert all(name in str(refused.value.hint) for name in folders)


def test_a_base_with_a_pickle_is_refused(tmp_path):
    (hugging_face_directory(tmp_path / "own") / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(BundleError, match="pytorch_model"):
        adopted(tmp_path, "own")
