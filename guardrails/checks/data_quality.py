"""Data quality: what stands in the records that the learner was given. A census, not a sample.

Invariants: every number is over all records, so it is exact; only ``data.loss_outliers`` is of records drawn. What was
mounted is counted; what a job says that it used is a claim. No records is not a clean set: it is not measured.

A census finds what its detectors know; how each one decides stands in ``sandbox/worker/probes``: ``records_quality``,
``personal_data``, ``gibberish``, ``record_labels``, ``records_loss`` and ``records_pool``. What none of them can see:
records that are wrong in what they say, poison that reads like prose, and traits that pass through data that is clean
to read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from guardrails.checks.check import Check, Evidence, Metric, NoParams
from guardrails.checks.harm import best_rate
from guardrails.checks.judges import FACT, WORDS
from guardrails.errors import NotMeasuredError
from guardrails.records import ModelKind
from guardrails.statistics import Estimate, exact, rate_interval

_SHARE = Metric("share of training records", "share", exact=True, low=0.0, high=1.0)
_COUNT = Metric("number of training records", "records", exact=True, low=0.0)
_TEXT = frozenset({ModelKind.LLM})


def _counted(evidence: Evidence, fact: str) -> tuple[int, int]:
    """How many records have something, and how many there are."""
    records, found = evidence.count("data.records"), evidence.count(fact)
    if records == 0:
        raise NotMeasuredError("there are no training records to look at")
    if found > records:
        raise NotMeasuredError(f"{fact} counts {found} of {records} records")
    return found, records


def _census(
    name: str, doc: str, kinds: frozenset[ModelKind] = frozenset(ModelKind), elsewhere: str = ""
) -> Check:
    fact = f"data.{name}"

    def measure(metric: str, params: NoParams, evidence: Evidence, confidence: float) -> Estimate:
        found, records = _counted(evidence, fact)
        return exact(float(found) if metric == "count" else found / records)

    return Check(fact, doc, NoParams, {"share": _SHARE, "count": _COUNT}, measure, kinds, elsewhere)


def _label_errors(metric: str, params: NoParams, evidence: Evidence, confidence: float) -> Estimate:
    labelled, records = _counted(evidence, "data.labelled")
    if labelled == 0:
        raise NotMeasuredError(
            "no training record carries a label", hint="records carry it as text in `label`"
        )
    if metric == "labelled":
        return exact(labelled / records)
    wrong = evidence.count("data.label_errors")
    if wrong > labelled:
        raise NotMeasuredError(f"data.label_errors counts {wrong} of {labelled} labelled records")
    return exact(float(wrong) if metric == "count" else wrong / labelled)


def _loss_outliers(metric: str, params: NoParams, evidence: Evidence, confidence: float) -> Estimate:
    looked = evidence.count("data.loss_looked")
    low, high = evidence.count("data.loss_low"), evidence.count("data.loss_high")
    if looked == 0 or low + high > looked or looked > evidence.count("data.records"):
        raise NotMeasuredError(f"{low} and {high} outliers among {looked} records do not add up")
    return rate_interval({"share": low + high, "low": low, "high": high}[metric], looked, confidence)


@dataclass(frozen=True)
class ToxicityParams:
    """Parameters of ``data.toxicity``.

    Attributes:
        min_auc: Not measured unless the judge's AUC is shown to be at least this (the lower end of its interval).
    """

    min_auc: float = 0.0


def _toxicity(metric: str, params: ToxicityParams, evidence: Evidence, confidence: float) -> Estimate:
    WORDS.require(params.min_auc)
    found, records = _counted(evidence, "data.toxicity")
    note = WORDS.note("2") if evidence.facts.get(FACT) == "2" else _JUDGE
    if metric == "count":
        return exact(float(found), note)
    share = found / records
    return exact(share if metric == "share" else share - evidence.number("data.pool_toxicity_share"), note)


def _meaning(metric: str, params: NoParams, evidence: Evidence, confidence: float) -> Estimate:
    if "data.meaning_looked" not in evidence.facts:
        raise NotMeasuredError(
            "no record was compared by meaning (data.meaning_looked)",
            hint="set `meaning = 220` in [models.NAME] of interlock.toml and measure again",
        )
    looked, near = evidence.count("data.meaning_looked"), evidence.count("data.overlap_meaning")
    if looked == 0 or near > looked or looked > evidence.count("data.records"):
        raise NotMeasuredError(f"{near} near an item among {looked} records do not add up")
    found = rate_interval(near, looked, confidence)
    return replace(found, note=_FINDS) if evidence.facts.get(FACT) == "2" else found


_JUDGE = "the judge's AUC is 0.75"
_FINDS = "of 30 records put in other words by hand it finds 15, of 1,500 others it counts 11"
"""As measured: ``sandbox/worker/probes/records_meaning.py``."""
_LARGEST = {
    "family_share": "largest_family",
    "family_count": "largest_family",
    "source_share": "largest_source",
}


def _concentration(metric: str, params: NoParams, evidence: Evidence, confidence: float) -> Estimate:
    found, records = _counted(evidence, f"data.{_LARGEST[metric]}")
    if metric != "source_share" and found == 0:
        raise NotMeasuredError("data.largest_family is 0, but every record is of a family")
    return exact(float(found) if metric == "family_count" else found / records)


def _provenance(metric: str, params: NoParams, evidence: Evidence, confidence: float) -> Estimate:
    found, records = _counted(evidence, f"data.{metric}")
    return exact(found / records)


def _diversity(metric: str, params: NoParams, evidence: Evidence, confidence: float) -> Estimate:
    base = "distinct_2" if metric.startswith("distinct_2") else "entropy"
    value = evidence.number(f"data.{base}")
    if metric == base:
        return exact(value)
    pool = evidence.number(f"data.pool_{base}")
    if metric == "entropy_delta":
        return exact(value - pool)
    if pool == 0:
        raise NotMeasuredError("the pool has no distinct pairs to compare with")
    return exact(value / pool)


def _shift(metric: str, params: NoParams, evidence: Evidence, confidence: float) -> Estimate:
    value = evidence.number("data.shift_js" if metric == "js" else "data.shift_new_words")
    if value > 1.0:
        raise NotMeasuredError(f"'{metric}' of data.shift is {value}, above 1")
    return exact(value)


CHECKS = (
    _census("near_duplicates", "Records that repeat another record or nearly do."),
    _census(
        "pii",
        "Records with personal data: addresses, phone numbers, card numbers. Also where look-alike letters, wide "
        "signs or signs without width hide it.",
    ),
    _census("secrets", "Records with keys, tokens or passwords."),
    _census("language", "Records in another language than the model is meant for."),
    _census("generated", "Records that a model wrote, by their own mark."),
    _census("overlap", "Records that share long passages with evaluation items."),
    _census(
        "gibberish",
        "Records that are no language: letters at random, keyboard runs, one phrase over and over, mostly signs, or no "
        "text. Judged by letter pairs against English prose (above 4.4 bits per letter) and by how far the text "
        "shrinks (below a quarter). Cannot see nonsense in real words, or gibberish inside a longer plain record; "
        "Latin-script languages far from English count.",
        _TEXT,
        "records of levels hold no text",
    ),
    Check(
        name="data.label_errors",
        doc=(
            "Records whose `label` is likely wrong, by confident learning: a classifier on words that has not seen the "
            "record is surer of another label than it is, in the mean, on records of that label. With labels turned at "
            "random among 900 records it found three quarters of them, and nine in ten of what it found were turned. Fewer "
            "than two labels of ten records are not measured. Cannot see labels that words do not tell apart, nor errors "
            "so consistent that they can be learnt."
        ),
        params=NoParams,
        metrics={
            "share": Metric("records likely mislabelled among those labelled", "share", exact=True, low=0.0, high=1.0),
            "count": Metric("records likely mislabelled", "records", exact=True, low=0.0),
            "labelled": Metric("records with a label", "share", exact=True, low=0.0, high=1.0),
        },
        measure=_label_errors,
        kinds=_TEXT,
        elsewhere="records of levels hold no text",
    ),
    Check(
        name="data.loss_outliers",
        doc=(
            "Records that the champion finds far more, or far less, surprising than the rest: nats per byte more than 3.5 "
            "scaled median deviations from the median. Sampled: the measurement draws which records are read, as many as "
            "`losses` in the model's configuration says; fewer than thirty are not measured. Losses have longer tails "
            "than a normal distribution, so honest records have outliers too: compare with your own. Cannot see poison "
            "that reads like the rest."
        ),
        params=NoParams,
        metrics={
            "share": Metric("records far above or below", "share", low=0.0, high=1.0, best=best_rate),
            "high": Metric("records far above the median", "share", low=0.0, high=1.0, best=best_rate),
            "low": Metric("records far below the median", "share", low=0.0, high=1.0, best=best_rate),
        },
        measure=_loss_outliers,
        kinds=_TEXT,
        elsewhere="records of levels hold no text",
    ),
    Check(
        name="data.overlap_meaning",
        doc=(
            "Records that say what an evaluation item says, in other words: overlap that `data.overlap` cannot see. Texts "
            "are compared by one frozen model (all-MiniLM-L6-v2), each pair's likeness less that of their neighbours (half "
            "of CSLS, arXiv:1710.04087); above 0.23 counts. Of 30 records put in other words by hand 15 lie above it, of "
            "1,500 other records of the same books 11. Sampled: as many records as `meaning` in the model's configuration "
            "says, drawn by the measurement. So single paraphrases pass half the time; a set of them does not."
        ),
        params=NoParams,
        metrics={
            "share": Metric("records near an item", "share", low=0.0, high=1.0, best=best_rate),
        },
        measure=_meaning,
        kinds=_TEXT,
        elsewhere="levels are compared whole: `data.overlap`",
    ),
    Check(
        name="data.toxicity",
        doc=(
            "Records of which a piece of 40 words reads more harmful than 1.8 nats, by the judge of `harm.toxicity`: fitted "
            "on 604 answers of chat models that people scored, cross-validated AUC 0.75. A census of all records, to their "
            "ends. On books it measures style as well: 5 to 22 in 100 records of the three shipped ones count, and none is "
            "harmful. So `share` says little alone; `rise` is against the model's own pool of training records, and every "
            "record that counts can be opened. Cannot see harm said in words that those answers do not have."
        ),
        params=ToxicityParams,
        metrics={
            "rise": Metric(f"share of records, less the pool's ({_JUDGE})", "share", exact=True, low=-1.0, high=1.0),
            "share": Metric(f"share of records ({_JUDGE})", "share", exact=True, low=0.0, high=1.0),
            "count": Metric(f"records ({_JUDGE})", "records", exact=True, low=0.0),
        },
        measure=_toxicity,
        kinds=_TEXT,
        elsewhere="records of levels hold no text",
    ),
    Check(
        name="data.concentration",
        doc=(
            "How much of the records comes from one place: the largest family of near-duplicates (three-word shingles, "
            "Jaccard 0.8 with the family's first record), and the most frequent `source`. Cannot see paraphrase, nor "
            "that two sources are one."
        ),
        params=NoParams,
        metrics={
            "family_share": Metric("records of the largest family", "share", exact=True, low=0.0, high=1.0),
            "family_count": Metric("records of the largest family", "records", exact=True, low=1.0),
            "source_share": Metric("records of the largest source", "share", exact=True, low=0.0, high=1.0),
        },
        measure=_concentration,
        kinds=_TEXT,
        elsewhere="records of levels hold no text",
    ),
    Check(
        name="data.provenance",
        doc=(
            "Records that do not say where they are from (`source` or `url`) or under which licence (`license` or "
            "`licence`). That a record says so does not make it true."
        ),
        params=NoParams,
        metrics={
            "unsourced": Metric("records without a source", "share", exact=True, low=0.0, high=1.0),
            "unlicensed": Metric("records without a licence", "share", exact=True, low=0.0, high=1.0),
        },
        measure=_provenance,
        kinds=_TEXT,
        elsewhere="levels are generated here, and have no source to state",
    ),
    Check(
        name="data.diversity",
        doc=(
            "Whether the records are as varied as the model's own pool of training records; self-generated text loses "
            "its tails first. Distinct pairs of words are counted in 1000 drawn pairs (expectation over all draws: "
            "rarefaction), so sets of different size compare; entropy is of single words, with the Miller-Madow "
            "correction. Sets of fewer than 1000 pairs are not measured. Cannot see sameness of meaning."
        ),
        params=NoParams,
        metrics={
            "distinct_2": Metric(
                "distinct pairs among 1000 drawn ones", "share", exact=True, low=0.0, high=1.0
            ),
            "distinct_2_ratio": Metric("the same, over the pool's", "ratio", exact=True, low=0.0),
            "entropy": Metric("entropy of words", "bits per word", exact=True, low=0.0),
            "entropy_delta": Metric("entropy of words, less the pool's", "bits per word", exact=True),
        },
        measure=_diversity,
        kinds=_TEXT,
        elsewhere="records of levels hold no text",
    ),
    Check(
        name="data.shift",
        doc=(
            "How far the words of the records are from those of the model's own pool of training records: 0 where they "
            "are the same. Words that the pool has fewer than five times count as one, words that it lacks as another; so "
            "chance moves it little. Sees topics and styles, not word order or meaning."
        ),
        params=NoParams,
        metrics={
            "js": Metric("Jensen-Shannon divergence of word frequencies", "bits", exact=True, low=0.0, high=1.0),
            "new_words": Metric("words that the pool lacks", "share", exact=True, low=0.0, high=1.0),
        },
        measure=_shift,
        kinds=_TEXT,
        elsewhere="records of levels hold no text",
    ),
)  # fmt: skip
