"""Text sources: files, folders, tables and datasets; whatever is wrong is located, and nothing is skipped silently."""

from __future__ import annotations

import builtins
import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from guardrails.errors import ConfigError
from sandbox.tasks import sources
from sandbox.tasks.sources import read_source

LONG = "a record that is long enough to be measured, number {}"
ROWS = [{"text": LONG.format(n), "license": "CC0", "stars": n} for n in range(3)]


def jsonl(file: Path, *rows: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return file


def saved(folder: Path, rows: list[dict[str, object]], parts: int = 1) -> Path:
    """As ``datasets.save_to_disk`` lays it out: an Arrow stream per part, and a list of the parts."""
    folder.mkdir(parents=True)
    names = []
    for part in range(parts):
        table = pa.Table.from_pylist(rows[part::parts])
        names.append(f"data-{part:05}-of-{parts:05}.arrow")
        with (
            pa.OSFile(str(folder / names[-1]), "wb") as sink,
            pa.ipc.new_stream(sink, table.schema) as writer,
        ):
            writer.write_table(table)
    state = {"_data_files": [{"filename": name} for name in names], "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def test_a_folder_is_read_with_all_that_is_in_it(tmp_path):
    jsonl(tmp_path / "own" / "b" / "x.jsonl", *ROWS)
    (tmp_path / "own" / "a.md").write_text("# Title\n\n" + LONG.format("a") + "\n")
    (tmp_path / "own" / "b" / "x.txt").write_text(LONG.format("b"))
    (tmp_path / "own" / ".hidden").write_text("x")
    parquet.write_table(pa.Table.from_pylist(ROWS[:1]), tmp_path / "own" / "c.parquet")
    records = read_source("own", tmp_path)
    assert [record["id"] for record in records] == [
        "a-2", "b/x.jsonl-1", "b/x.jsonl-2", "b/x.jsonl-3", "b/x.txt-1", "c-1"
    ]  # fmt: skip
    assert records[0]["source"] == "a"
    assert records[-1] == {"id": "c-1", "text": LONG.format(0), "source": "c", "license": "CC0"}


@pytest.mark.parametrize("name", ["picture.png", "code.py", "README"])
def test_what_is_no_source_in_a_folder_is_named(tmp_path, name):
    jsonl(tmp_path / "own" / "x.jsonl", *ROWS)
    assert len(read_source("own", tmp_path)) == 3  # positive control
    (tmp_path / "own" / name).write_text("x")
    with pytest.raises(ConfigError, match=rf"{name}: not a text source"):
        read_source("own", tmp_path)


@pytest.mark.parametrize("parts", [1, 2])
def test_tables_and_saved_datasets_give_the_same_records(tmp_path, parts):
    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "t.parquet")
    saved(tmp_path / "set", ROWS, parts)
    table, dataset = read_source("t.parquet", tmp_path), read_source("set", tmp_path)
    assert sorted(r["text"] for r in table) == sorted(r["text"] for r in dataset) == [r["text"] for r in ROWS]
    assert [r["id"] for r in dataset] == ["set-1", "set-2", "set-3"]
    assert all(r["license"] == "CC0" and "stars" not in r for r in (*table, *dataset))


def test_a_dataset_of_several_splits_asks_for_one(tmp_path):
    saved(tmp_path / "set" / "train", ROWS)
    saved(tmp_path / "set" / "test", ROWS)
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(ConfigError, match="several splits") as raised:
        read_source("set", tmp_path)
    assert "test, train" in raised.value.hint
    assert len(read_source("set/train", tmp_path)) == 3


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"text": LONG, "x": 1}, {"text": None, "x": 1}], r"t\.parquet:2: text is not a string"),
        ([{"body": LONG}], r"t\.parquet:1: there is no text"),
        ([{"text": 7}], r"t\.parquet:1: text is not a string"),
    ],
)
def test_a_row_without_a_text_is_located(tmp_path, rows, said):
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    with pytest.raises(ConfigError, match=said):
        read_source("t.parquet", tmp_path)


def test_files_that_are_no_tables_are_named(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(ConfigError, match=r"t\.parquet cannot be read"):
        read_source("t.parquet", tmp_path)
    folder = saved(tmp_path / "set", ROWS)
    (folder / "data-00000-of-00001.arrow").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"data-00000-of-00001\.arrow cannot be read"):
        read_source("set", tmp_path)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("{", r"state\.json cannot be read"),
        ("{}", r"state\.json cannot be read"),
        ('{"_data_files": [{"filename": "../t.arrow"}]}', "not a file beside it"),
        ('{"_data_files": [], "_indices_files": [{"filename": "i"}]}', "chosen by an index"),
    ],
)
def test_a_dataset_is_what_it_lists_and_nothing_beside(tmp_path, state, said):
    folder = saved(tmp_path / "set", ROWS)
    (folder / "state.json").write_text(state)
    with pytest.raises(ConfigError, match=said):
        read_source("set", tmp_path)


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "t.parquet")
    load = builtins.__import__

    def absent(name, *rest):
        if name == "pyarrow":
            raise ModuleNotFoundError(name)
        return load(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ConfigError, match="pyarrow is not installed") as raised:
        read_source("t.parquet", tmp_path)
    assert "interlock[data]" in raised.value.hint


@pytest.mark.parametrize(("limit", "value", "said"), [
    ("MAX_FILES", 1, "more than 1 files"), ("MAX_BYTES", 100, "more than 100"), ("MAX_RECORDS", 5, "more than 5 records")
])  # fmt: skip
def test_what_is_too_large_is_refused(tmp_path, monkeypatch, limit, value, said):
    jsonl(tmp_path / "own" / "x.jsonl", *ROWS)
    jsonl(tmp_path / "own" / "y.jsonl", *ROWS)
    assert len(read_source("own", tmp_path)) == 6  # positive control
    monkeypatch.setattr(sources, limit, value)
    with pytest.raises(ConfigError, match=said):
        read_source("own", tmp_path)


def test_a_small_table_that_unfolds_to_much_text_is_refused(tmp_path, monkeypatch):
    parquet.write_table(pa.Table.from_pylist([{"text": "x" * 1000}] * 2000), tmp_path / "t.parquet")
    size = (tmp_path / "t.parquet").stat().st_size
    assert size < 100_000
    assert len(read_source("t.parquet", tmp_path)) == 2000  # positive control
    monkeypatch.setattr(sources, "MAX_BYTES", 100_000)
    with pytest.raises(ConfigError, match="more than 100000 characters"):
        read_source("t.parquet", tmp_path)


def test_no_link_leads_out_of_a_folder(tmp_path):
    jsonl(tmp_path / "own" / "x.jsonl", *ROWS)
    (tmp_path / "secret.txt").write_text(LONG.format("secret"))
    (tmp_path / "own" / "copy.jsonl").symlink_to("x.jsonl")
    assert len(read_source("own", tmp_path)) == 6  # a link within it is a file like any other
    for target in (tmp_path / "secret.txt", tmp_path, Path("loop.txt")):
        (tmp_path / "own" / "loop.txt").symlink_to(target)
        with pytest.raises(ConfigError, match=r"loop\.txt: a link that leads out"):
            read_source("own", tmp_path)
        (tmp_path / "own" / "loop.txt").unlink()


def test_the_links_of_the_hubs_cache_are_followed(tmp_path):
    snapshot = tmp_path / "repo" / "snapshots" / "abc"
    jsonl(tmp_path / "repo" / "blobs" / "1", *ROWS)
    snapshot.mkdir(parents=True)
    (snapshot / "x.jsonl").symlink_to("../../blobs/1")
    assert len(read_source(str(snapshot), tmp_path)) == 3
    (tmp_path / "repo" / "secret.txt").write_text(LONG.format("secret"))
    (snapshot / "y.txt").symlink_to("../../secret.txt")
    with pytest.raises(ConfigError, match="leads out"):
        read_source(str(snapshot), tmp_path)


def test_an_id_that_stands_twice_is_located(tmp_path):
    jsonl(tmp_path / "own.jsonl", {"id": "a", **ROWS[0]}, {"id": "a", **ROWS[1]})
    with pytest.raises(ConfigError, match=r"own\.jsonl:2: the id 'a' stands in .*own\.jsonl:1"):
        read_source("own.jsonl", tmp_path)


def test_the_hub_is_asked_only_where_a_source_names_it(tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def fetched(name, **more):
        how = "cached" if more.get("local_files_only") else "sized" if more.get("dry_run") else "fetched"
        asked.append((name, how, more["revision"], more["repo_type"]))
        if how == "cached":
            raise LocalEntryNotFoundError("not here")
        if how == "sized":
            return []
        return str(snapshot)

    snapshot = tmp_path / "cache" / "snapshots" / "commit"
    jsonl(snapshot / "train.jsonl", *ROWS)
    listed = {"train.jsonl": {"size": (snapshot / "train.jsonl").stat().st_size}}
    (tmp_path / "cache" / "trees").mkdir()
    (tmp_path / "cache" / "trees" / "commit.json").write_text(json.dumps({"files": listed}))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    assert len(read_source("cache/snapshots/commit", tmp_path)) == 3
    assert not asked
    assert len(read_source("hub:owner/name@v1", tmp_path)) == 3
    assert asked == [("owner/name", how, "v1", "dataset") for how in ("cached", "sized", "fetched")]
    for wrong in ("hub:name", "hub:../name", "hub:a/b/c", "hub:", "hub:a/b@..", "hub:a/b@.x"):
        with pytest.raises(ConfigError, match="no hub id"):
            read_source(wrong, tmp_path)


def test_what_the_hub_does_not_give_is_said(tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def refused(name, **more):
        raise (
            LocalEntryNotFoundError("not here")
            if more.get("local_files_only")
            else OSError("no route to host")
        )

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refused)
    with pytest.raises(ConfigError, match="no route to host") as raised:
        read_source("hub:owner/name", tmp_path)
    assert "give its folder" in raised.value.hint
