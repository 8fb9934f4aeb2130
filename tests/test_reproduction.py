"""sandbox.reproduction: a proposal trained once more, in real isolation, and what is said where other bytes come out."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from test_rounds import Site, quiet

from guardrails.canonical import Digest, digest
from guardrails.errors import UsageError
from sandbox import reproduction, rounds
from sandbox.config import Recipe
from sandbox.isolation.spec import JobSpec
from sandbox.reproduction import Reproduction
from sandbox.rounds import jobs, provenance
from ui.cli.main import run

RECIPE = Recipe("self_supervised", {"steps": "3", "batch": "4", "form": "average", "dtype": "float32"})


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return Site(tmp_path_factory.mktemp("reproduction") / "ws")


@pytest.fixture(scope="module")
def proposal(site):
    return rounds.propose(site.bench, site.model, RECIPE, 3, quiet)


def size_of(site) -> int:
    with site.workspace.log.read() as snapshot:
        return snapshot.size


def outcome(**fields) -> Reproduction:
    was, now = digest(b"was"), digest(b"now")
    return Reproduction(
        **{"proposal": "P-1", "recorded": was, "made": now, "files": (), "differs": {}} | fields
    )


def test_other_bytes_are_not_reproduced_and_nobody_is_accused():
    elsewhere = outcome(
        files=("a", "model/model.safetensors", "proposal.json", "z"), differs={"torch": ("2.12", "2.13")}
    )
    assert not elsewhere.reproduced
    assert elsewhere.sentence == (
        "P-1 not reproduced: other bytes in a, model/model.safetensors, proposal.json, …; "
        "different here: torch 2.13 (on record: 2.12)"
    )
    here = outcome(files=("model/model.safetensors",))
    assert "nothing that is on record of the machine and its versions is different here" in here.sentence
    for one in (elsewhere, here):
        assert not any(word in one.sentence for word in ("tamper", "forged", "altered"))
    same = outcome(made=digest(b"was"))
    assert same.reproduced
    assert same.sentence == f"P-1 reproduced: the same bundle, {digest(b'was')}"


@pytest.mark.parametrize(
    "text", ["", '{"chosen":-1,"fresh":true,"id":"q","kind":"answer","prompt":"2>","skipped":false}\n']
)
def test_answers_are_told_from_the_records_before_them(tmp_path, text):
    records = '{"id":"a","text":"one"}\n{"answer":"3","id":"b","prompt":"3>","text":"3>3"}\n'
    reproduction._lay_out((records + text).encode(), tmp_path / "data")
    assert (tmp_path / "data" / "train.jsonl").read_text() == records
    answers = tmp_path / "data" / "answers.jsonl"
    assert (answers.read_text() if answers.exists() else "") == text


@pytest.mark.slow
def test_a_proposal_is_reproduced_and_nothing_is_recorded(site, proposal):
    before = size_of(site)
    found = reproduction.reproduce(site.bench, site.model, proposal, None, quiet)
    assert found.reproduced, found.sentence
    assert found.made == site.row(proposal).proposal.bundle
    assert (found.files, found.differs) == ((), {})
    assert size_of(site) == before
    assert not list((site.workspace.path / "jobs").glob("job-*"))


@pytest.mark.slow
def test_how_much_was_learnt_from_at_once_is_decided_by_the_recorded_limit(site):
    limits = replace(site.model.limits, memory_bytes=520 << 20)
    recipe = replace(RECIPE, settings=RECIPE.settings | {"length": "512"})
    proposal = rounds.propose(site.bench, replace(site.model, limits=limits), recipe, 3, quiet)
    record = site.row(proposal).proposal
    assert record.environment["memory_bytes"] == str(520 << 20)
    tree = {entry.path: entry for entry in site.workspace.store.tree(record.bundle)}
    claims = json.loads(site.workspace.store.get_bytes(Digest(tree["proposal.json"].sha256)))["claims"]
    assert (claims["rows_at_once"], claims["checkpointing"]) == ("1", "no")
    found = reproduction.reproduce(site.bench, site.model, proposal, None, quiet)
    assert found.reproduced, found.sentence
    assert set(found.differs) == {"memory_bytes"}


@pytest.mark.slow
def test_another_processor_is_named_and_does_not_make_it_tampered(site, proposal, monkeypatch, capsys):
    """The job really calculates as on a processor without vector instructions, and so comes to other bytes."""

    def older(**fields):
        return JobSpec(**fields | {"env": fields["env"] | {"ATEN_CPU_CAPABILITY": "default"}})

    monkeypatch.setattr(jobs, "JobSpec", older)
    monkeypatch.setattr(provenance, "processor", lambda: "an older one")
    monkeypatch.setenv("INTERLOCK_RUNNER", "local")
    status = run(["--workspace", str(site.workspace.path), "--json", "reproduce", proposal])
    data = json.loads(capsys.readouterr().out)["data"]
    assert (status, data["reproduced"]) == (1, False)
    assert data["made_digest"] != data["bundle_digest"] == str(site.row(proposal).proposal.bundle)
    # Which of the two depends on the processor: rounding may hide it in the stored numbers or in the losses.
    assert data["files"]
    assert set(data["files"]) <= {"model/model.safetensors", "proposal.json"}
    assert data["differs"] == {
        "processor": {"recorded": recorded_processor(site, proposal), "here": "an older one"}
    }


def recorded_processor(site, proposal) -> str:
    return site.row(proposal).proposal.environment["processor"]


@pytest.mark.slow
def test_what_no_job_of_ours_trained_is_refused(site, proposal, tmp_path):
    bundle = tmp_path / "bundle"
    site.workspace.store.checkout(site.row(proposal).proposal.bundle, bundle)
    submitted = rounds.submit(site.bench, site.model, bundle, "trained at home", "p-someone", quiet)
    with pytest.raises(UsageError, match="was not trained here"):
        reproduction.reproduce(site.bench, site.model, submitted, None, quiet)
