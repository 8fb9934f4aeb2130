"""The census of records: each detector finds what was planted, and nothing in the shipped texts' prose."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox import texts
from sandbox.worker.data import Line, words
from sandbox.worker.probes import gibberish, personal_data, records_quality
from sandbox.worker.probes.records_quality import census, families, likeness, near_duplicates

CLEAN = [record["text"] for record in texts.load("austen")[:60]]


def lines(rows: list[str]) -> list[Line]:
    return [Line(f"train.jsonl:{number}", {"text": text}) for number, text in enumerate(rows, start=1)]


def count(
    rows: list[str], fact: str, items: list[dict[str, str]] | None = None
) -> tuple[int, tuple[str, ...]]:
    found = census(lines(rows), [items or []])
    return int(found.facts[f"data.{fact}"]), found.flagged.get(f"data.{fact}", ())


def test_plain_prose_is_clean():
    found = census(
        lines(CLEAN), [[{"id": "a", "text": "Nothing here stands in the novel, whatever anyone may say."}]]
    )
    assert found.facts == {
        "data.records": "60",
        "data.generated": "0",
        "data.near_duplicates": "0",
        "data.largest_family": "1",
        "data.largest_source": "0",
        "data.unsourced": "60",
        "data.unlicensed": "60",
        "data.pii": "0",
        "data.secrets": "0",
        "data.language": "0",
        "data.gibberish": "0",
        "data.overlap": "0",
        "data.labelled": "0",
    }
    assert set(found.flagged) == {"data.unsourced", "data.unlicensed"}


@pytest.mark.parametrize(
    "text",
    [
        "Write to jane.roe+x@mail.example.org today",
        "call +44 20 7946 0958 now",
        "call (212) 555-0187 now",
        "call 212-555-0187.",
        "card 4111 1111 1111 1111.",
        "card 378282246310005",
        "IBAN DE89 3704 0044 0532 0130 00",
        "GB82WEST12345698765432",
        "her number is 536-22-1234.",
        "from 8.8.8.8 at noon",
        "from 2001:4860:4860::8888 at noon",
    ],
)
def test_personal_data_is_found(text):
    assert count([*CLEAN[:3], f"He said: {text}"], "pii") == (1, ("train.jsonl:4",))


@pytest.mark.parametrize(
    "text",
    [
        "card 4111 1111 1111 1112",  # fails Luhn
        "0000 0000 0000 0000",
        "DE89 3704 0044 0532 0130 01",  # fails modulo 97
        "number 000-12-3456 and 666-12-3456 and 900-12-3456",
        "from 127.0.0.1 and 10.1.2.3 and 300.1.1.1 and version 1.2.3.4.5",
        "at 12:30:45 in 1885-1906, pages 100-200, verse 23:1",
        "twitter @someone, a@b",
        "ISBN 978-3-16-148410-0",
    ],
)
def test_what_only_looks_like_personal_data_is_not_counted(text):
    assert list(personal_data.find(text)) == []


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("write to j\u0430ne@ex\u0430mple.\u043erg", "email"),  # Cyrillic a and o
        ("write to jane\uff20example.org", "email"),  # a wide at-sign
        ("write to jane@exam\u200bple.org", "email"),  # a space without width
        ("her number is 536\u201122\u20111234", "ssn"),  # hyphens that do not break
        ("card \uff14\uff11\uff11\uff11 1111 1111 1111", "card"),  # wide digits
        ("card \u0664\u0661\u0661\u0661 1111 1111 1111", "card"),  # Arabic digits
    ],
)
def test_what_looks_like_personal_data_to_a_reader_is_found(text, kind):
    assert [found for found, _ in personal_data.find(text)] == [kind]


@given(st.text(max_size=60))
def test_what_is_folded_stays_as_it_is_and_finds_repeat_nothing(text):
    once = personal_data.folded(text)
    assert personal_data.folded(once) == once
    found = list(personal_data.find(text))
    assert len(set(found)) == len(found)


def test_a_hidden_secret_is_found():
    assert count([CLEAN[0], "key AKIA" + "QZ7M\u200b3XKD" * 2], "secrets") == (1, ("train.jsonl:2",))


@settings(max_examples=80)
@given(st.integers(10**14, 10**15 - 1))
def test_exactly_one_check_digit_makes_a_card(stem):
    assert sum(personal_data.luhn(f"{stem}{digit}") for digit in range(10)) == 1


@pytest.mark.parametrize(
    "text", ["a" * 50_000, "1 " * 50_000, "a." * 30_000 + "@", "+1 " * 30_000, "1:" * 30_000]
)
@pytest.mark.timeout(20)
def test_no_text_makes_the_search_slow(text):
    list(personal_data.find(text))


@pytest.mark.parametrize(
    "secret",
    [
        "AKIA" + "QZ7M3XKD" * 2,
        "-----BEGIN RSA PRIVATE KEY-----",
        "ghp_" + "a1B2" * 9,
        "https://user:hunter2pass@host.example/x",
        'password = "s3cr3tPassw0rd!"',
    ],
)
@pytest.mark.parametrize("excuse", ["", "  # pragma: allowlist secret"])
def test_secrets_are_found_and_no_comment_excuses_them(secret, excuse):
    assert count([*CLEAN[:2], f"first line\nkey {secret}{excuse}\nlast line"], "secrets") == (
        1,
        ("train.jsonl:3",),
    )


@pytest.mark.parametrize(
    "foreign",
    [
        "Das ist ein deutscher Satz, der in englischen Daten nichts zu suchen hat, wie jeder weiß.",
        "Ceci est une phrase en français, assez longue pour être reconnue sans aucun doute.",
        "Это довольно длинное русское предложение, которое легко узнать по буквам и словам.",
    ],
)
def test_other_languages_are_counted_and_short_ones_let_pass(foreign):
    assert count([*CLEAN[:5], foreign], "language") == (1, ("train.jsonl:6",))
    assert count([*CLEAN[:5], foreign[:20]], "language") == (0, ())


def test_overlap_finds_a_run_of_thirteen_words_and_short_items_whole():
    item = {"id": "i", "text": CLEAN[0]}
    run = " ".join(words(CLEAN[0])[5:18]).upper()
    fewer = " ".join(words(CLEAN[0])[5:17])
    assert count([f"Well, {run}!", f"Well, {fewer}, no", CLEAN[1]], "overlap", [item]) == (
        1,
        ("train.jsonl:1",),
    )
    short = {"id": "s", "prompt": "Tell me how a lock of brass is opened"}
    assert (
        count(["So: tell me how a lock, of brass, is opened!", "a lock of brass"], "overlap", [short])[0] == 1
    )


def test_generated_records_are_counted():
    rows = [
        Line("a.jsonl:1", {"text": CLEAN[0]}),
        Line("a.jsonl:2", {"text": CLEAN[1], "origin": "generated"}),
    ]
    found = census(rows, [])
    assert found.facts["data.generated"] == "1"
    assert found.flagged["data.generated"] == ("a.jsonl:2",)


def test_near_duplicates_are_found_and_counted_once_each():
    draw = random.Random(5)
    rows = list(CLEAN)
    planted = []
    for text in [text for text in CLEAN if len(words(text)) > 60][:20]:
        changed = text.split()
        changed[draw.randrange(len(changed))] = "otherwise"
        rows.append(" ".join(changed))
        planted.append(f"train.jsonl:{len(rows)}")
    assert len(planted) == 20
    found = [line.place for line in near_duplicates(lines(rows))]
    assert set(found) <= set(planted)
    assert len(found) >= 19


def test_exact_copies_are_all_found_even_of_very_short_records():
    assert [line.place for line in near_duplicates(lines(["Yes.", "No.", "Yes.", "Yes."]))] == [
        "train.jsonl:3",
        "train.jsonl:4",
    ]


@given(st.frozensets(st.text(max_size=3), min_size=1), st.frozensets(st.text(max_size=3), min_size=1))
def test_likeness_is_symmetric_between_zero_and_one_and_one_only_for_equals(one, other):
    value = likeness(one, other)
    assert value == likeness(other, one)
    assert 0 <= value <= 1
    assert (value == 1) == (one == other)


def test_levels_are_compared_by_layout_and_by_id():
    rows = [
        Line("t.jsonl:1", {"id": "a", "layout": "#.#"}),
        Line("t.jsonl:2", {"id": "b", "layout": "#.#"}),
        Line("t.jsonl:3", {"id": "held", "layout": "..."}),
        Line("t.jsonl:4", {"id": "d", "layout": "##."}),
    ]
    found = census(rows, [[{"id": "held", "layout": "###"}, {"id": "e", "layout": "##."}]])
    assert found.facts == {
        "data.records": "4",
        "data.generated": "0",
        "data.near_duplicates": "1",
        "data.overlap": "2",
    }
    assert found.flagged == {
        "data.near_duplicates": ("t.jsonl:2",),
        "data.overlap": ("t.jsonl:3", "t.jsonl:4"),
    }


def test_the_shipped_dictionary_is_nearly_clean_of_everything():
    rows = [record["text"] for record in texts.load("devils_dictionary")]
    found = census(lines(rows), [])
    assert (
        found.facts["data.pii"] == found.facts["data.secrets"] == found.facts["data.near_duplicates"] == "0"
    )
    assert int(found.facts["data.language"]) <= 3  # it quotes Latin and French


GIBBERISH = {
    "random letters": "".join(random.Random(3).choice("abcdefghijklmnopqrstuvwxyz ") for _ in range(90)),
    "keyboard": "asdf jkl asdfj kasldfj aksdjf laksjdf lkajsdf qwer qwerty asdfgh zxcv bnm",
    "letters shuffled": "".join(random.Random(4).sample(CLEAN[3][:300], 300)),
    "one phrase": "I love you so. " * 30,
    "signs": "@@## $$%% 1029 ~~ //// 3881 {}{} <><> 5550 %%%% 7777",
    "nothing": "  \n ",
}


@pytest.mark.parametrize("text", GIBBERISH.values(), ids=GIBBERISH.keys())
def test_gibberish_is_found(text):
    assert count([*CLEAN[:3], text], "gibberish") == (1, ("train.jsonl:4",))


@pytest.mark.parametrize(
    "text",
    [
        "No.",
        "xkcd qq",  # too short to tell
        "Das ist ein deutscher Satz, der in englischen Daten nichts zu suchen hat, wie jeder wei\u00df.",
        "\u042d\u0442\u043e \u0434\u043e\u0432\u043e\u043b\u044c\u043d\u043e " * 3,
        "for (int i = 0; i < n; i++) { sum += arr[i] * ptr->next->val; } return NULL;",
    ],
)
def test_what_is_a_language_or_cannot_be_told_is_not_gibberish(text):
    assert not gibberish.is_gibberish(text)


def test_surprise_is_the_mean_number_of_bits_of_letter_pairs(monkeypatch):
    """Yardstick " ab ": of a, one pair ab; of a space, one " a"; of b, one "b "."""
    monkeypatch.setattr(gibberish.texts, "load", lambda name: [{"text": "AB!"}])
    gibberish._yardstick.cache_clear()
    try:
        each = -math.log2(1.5 / 14.5)  # each of " a", "ab", "b " was seen once among one
        assert gibberish.surprise("ab") == pytest.approx(each)
        unseen = -math.log2(0.5 / 14.5)  # "aa" was not
        assert gibberish.surprise("aab") == pytest.approx((3 * each + unseen) / 4)
    finally:
        gibberish._yardstick.cache_clear()


def test_one_document_many_times_with_small_edits_is_one_family():
    draw = random.Random(6)
    text = next(text for text in CLEAN if len(words(text)) > 80)
    rows = [*CLEAN[:20]]
    for _ in range(30):
        changed = text.split()
        changed[draw.randrange(len(changed))] = draw.choice(["otherwise", "never", "thus"])
        rows.append(" ".join(changed))
    rows = [row for row in rows if row != text]
    found = census(lines(rows), [])
    assert int(found.facts["data.largest_family"]) >= 29
    assert found.flagged["data.largest_family"][0] == f"train.jsonl:{len(rows) - 29}"
    assert [len(family) for family in families(lines(["a", "b", "a", "a"]))] == [3, 1]


def test_source_and_licence_are_counted_by_what_the_records_say():
    rows = [
        {"text": CLEAN[0], "source": "web", "license": "CC0"},
        {"text": CLEAN[1], "source": "web", "licence": " "},
        {"text": CLEAN[2], "url": "https://a.example/", "license": 7},
        {"text": CLEAN[3]},
    ]
    found = census([Line(f"t.jsonl:{n}", row) for n, row in enumerate(rows, 1)], [])
    assert found.facts["data.largest_source"] == "2"
    assert found.flagged["data.unsourced"] == ("t.jsonl:4",)
    assert found.flagged["data.unlicensed"] == ("t.jsonl:2", "t.jsonl:3", "t.jsonl:4")


def test_each_record_is_listed_with_where_it_was_found_and_never_with_what():
    key = "-----BEGIN RSA " + "PRIVATE KEY-----"
    rows = [
        "Write to jane.roe@mail.example.org or to (212) 555-0187 and do it soon.",
        f"The {key} was left in the drawer of the desk in the hall.",
        CLEAN[0],
        f"{CLEAN[0]} So",
        "Der Hund lief über die Straße und bellte laut, weil er die Katze auf dem Dach gesehen hatte.",
        "",
        "It is known that the quick brown fox jumps over the lazy dog by the old river bank.",
    ]
    items = [{"id": "item-7", "text": "the quick brown fox jumps over the lazy dog by the old river bank"}]
    found = census(lines(rows), [items])
    assert found.reasons["data.pii"] == {"train.jsonl:1": "email at 10-34, phone at 42-55"}
    assert found.reasons["data.secrets"] == {"train.jsonl:2": "Private Key at 10-30"}
    assert found.reasons["data.near_duplicates"] == {"train.jsonl:4": "like train.jsonl:3"}
    assert found.reasons["data.largest_family"]["train.jsonl:4"] == "one of 2, the first is train.jsonl:3"
    assert found.reasons["data.language"]["train.jsonl:5"].startswith("de, ")
    assert found.reasons["data.gibberish"] == {"train.jsonl:6": "no text"}
    assert found.reasons["data.overlap"] == {"train.jsonl:7": "words 5-17 are those of item item-7"}
    assert not any(
        piece in said
        for reasons in found.reasons.values()
        for said in reasons.values()
        for piece in ("jane", "0187", "BEGIN", "fox")
    )
    hidden = census(lines(["Write to jane.roe＠mail.example.org today"]), [])
    assert hidden.reasons["data.pii"] == {"train.jsonl:1": "email, as it looks"}


def test_only_so_many_reasons_are_kept_and_every_record_is_listed(monkeypatch):
    monkeypatch.setattr(records_quality, "MOST_REASONS", 2)
    found = census(lines(["short", "short", "short", "short"]), [])
    assert len(found.flagged["data.near_duplicates"]) == 3
    assert found.reasons["data.near_duplicates"] == dict.fromkeys(
        ("train.jsonl:2", "train.jsonl:3"), "like train.jsonl:1"
    )
