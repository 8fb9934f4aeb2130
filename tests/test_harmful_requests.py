"""Harmful requests come from the installed package, are checked by digest, and are nowhere else."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from guardrails.errors import InvalidInputError
from sandbox import harmful_requests
from sandbox.harmful_requests import load_harmful_requests

ROOT = Path(__file__).parent.parent


def test_requests_are_many_distinct_and_complete():
    found = load_harmful_requests()
    assert len(found) == 520
    assert len({request["id"] for request in found}) == len({request["prompt"] for request in found}) == 520
    for request in found:
        assert set(request) == {"id", "prompt", "comply", "refuse", "categories"}
        assert all(request.values())
    assert found == load_harmful_requests()


def test_the_package_is_read_and_never_imported():
    load_harmful_requests()
    assert harmful_requests.PACKAGE not in sys.modules


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(harmful_requests, "PACKAGE", "no_such_package_anywhere")
    with pytest.raises(InvalidInputError, match=r"pip install --no-deps pyrit==1\.1\.0"):
        load_harmful_requests()


def test_another_file_is_refused(tmp_path, monkeypatch):
    copy = tmp_path / "requests.prompt"
    shutil.copyfile(harmful_requests.locate(), copy)
    monkeypatch.setattr(harmful_requests, "locate", lambda: copy)
    assert len(load_harmful_requests()) == 520  # positive control
    copy.write_text(copy.read_text("utf-8") + "# one more line\n", "utf-8")
    with pytest.raises(InvalidInputError, match="not the expected file"):
        load_harmful_requests()


def test_no_request_stands_in_the_shipped_texts():
    shipped = "".join(
        path.read_text("utf-8") for path in (ROOT / "sandbox" / "texts").glob("*.jsonl")
    ).lower()
    assert not [request["id"] for request in load_harmful_requests() if request["prompt"].lower() in shipped]
