"""sandbox.rounds.provenance: what measures is named by the digest of all its code."""

from pathlib import Path

from guardrails.canonical import digest
from sandbox import worker
from sandbox.rounds import provenance

SOURCES = sorted(Path(worker.__file__).parent.rglob("*.py"))


def test_the_evaluator_is_named_by_every_source_of_the_worker(monkeypatch):
    real, read = provenance.digest_file, []
    monkeypatch.setattr(provenance, "digest_file", lambda path: read.append(path) or real(path))
    provenance.evaluator_version()
    assert sorted(path.resolve() for path in read) == [path.resolve() for path in SOURCES]
    assert any(path.name == "measure.py" for path in read)


def test_another_line_in_a_probe_is_another_evaluator(monkeypatch):
    """Otherwise the champion's scores of the code before would be taken for those of the code after."""
    before, real = provenance.evaluator_version(), provenance.digest_file
    changed = next(path for path in SOURCES if path.name == "comparison.py")
    monkeypatch.setattr(
        provenance,
        "digest_file",
        lambda path: digest(b"another") if path.name == changed.name else real(path),
    )
    assert provenance.evaluator_version() != before
