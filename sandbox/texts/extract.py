"""Make the text files from the Debian packages that carry them; not needed to use them.

Invariants:
- The same package versions yield the same bytes.
- Words, punctuation and order stay as in the source; only line wrapping, cross-reference braces and
  the spaces around them are changed.

Run ``python -m sandbox.texts.extract DIRECTORY`` on a machine where ``dict-devil``, ``bible-kjv`` and
``r-cran-janeaustenr`` are installed; then compare the digests with ``sources.json``.
"""

from __future__ import annotations

import gzip
import json
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

DEVIL = Path("/usr/share/dictd/devil")
AUSTEN = Path("/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb")
KJV_RANGES = ("gen1:1-gen50:26", "psa1:1-psa150:6", "pro1:1-pro31:31")
KJV_BOOKS = {"Ge": "genesis", "Psa": "psalms", "Prv": "proverbs"}
LEFT_OUT = ("arrest",)  # quotes the line that SABBATH quotes: split apart, one would give the other away
_DICTD_DIGITS = {
    digit: value
    for value, digit in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
}
_R_STRING = b"\x00\x04\x00\x09"


def unwrap(lines: list[str]) -> str:
    """Join the lines of each paragraph; verse (indented lines) keeps its line breaks."""
    out: list[str] = []
    after_prose = False
    for line in lines:
        text = re.sub(r"\s+", " ", line).strip()
        verse = line.startswith("    ")
        if text and not verse and after_prose:
            glue = "" if out[-1].endswith("-") and not out[-1].endswith("--") else " "
            out[-1] += glue + text
        else:
            out.append(text)
        after_prose = bool(text) and not verse
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out)).strip()


def devil() -> Iterator[tuple[str, str]]:
    """The entries of The Devil's Dictionary, in the order of the book."""
    body = gzip.decompress(DEVIL.with_suffix(".dict.dz").read_bytes())
    places: dict[tuple[int, int], str] = {}
    for line in DEVIL.with_suffix(".index").read_text("utf-8").splitlines():
        word, start, size = line.split("\t")
        if not word.startswith("00"):
            places.setdefault((_number(start), _number(size)), word)
    seen: set[str] = set()
    used: dict[str, int] = {}
    for (offset, length), word in sorted(places.items()):
        braced = body[offset : offset + length].decode("utf-8")
        text = unwrap(braced.replace("{", "").replace("}", "").splitlines())
        if text in seen:  # two entries stand twice in the source
            continue
        seen.add(text)
        name = re.sub(r"[^a-z0-9]+", "-", word.lower()).strip("-")
        used[name] = used.get(name, 0) + 1
        if name not in LEFT_OUT:
            yield (name if used[name] == 1 else f"{name}-{used[name]}"), text


def _number(digits: str) -> int:
    value = 0
    for digit in digits:
        value = value * 64 + _DICTD_DIGITS[digit]
    return value


def kjv() -> Iterator[tuple[str, str]]:
    """Genesis, Psalms and Proverbs of the King James Version, one verse each."""
    done = subprocess.run(
        ["bible", "-f"], input="\n".join(KJV_RANGES) + "\n", capture_output=True, text=True, check=True
    )
    seen: set[str] = set()
    for line in done.stdout.splitlines():
        match = re.match(r"(?:bible\(KJV\) \[[^]]*\]> )?([A-Z][a-z]+)(\d+):(\d+) (.+)", line)
        if match and match[1] in KJV_BOOKS:
            name = f"{KJV_BOOKS[match[1]]}-{match[2]}-{match[3]}"
            if name not in seen:  # the tool greets with the first verse
                seen.add(name)
                yield name, re.sub(r"\s+", " ", match[4]).strip()


def austen() -> Iterator[tuple[str, str]]:
    """Persuasion by Jane Austen, one paragraph each, without title and headings."""
    data = AUSTEN.read_bytes()
    position, novels = 0, []
    while position < len(data):  # each object: 4 bytes of length, then a zlib stream
        stream = zlib.decompressobj()
        novels.append(stream.decompress(data[position + 4 :]))
        position = len(data) - len(stream.unused_data)
    novel = next(text for text in novels if b"Persuasion" in text[:200])
    number = 0
    for paragraph in re.split(r"\n\s*\n", "\n".join(_strings(novel))):
        text = unwrap(paragraph.strip("\n").splitlines())
        if re.search(r"[a-z]", text) and not text.startswith("Chapter ") and len(text) > 24:
            number += 1
            yield f"persuasion-{number:04}", text.replace("\n", " ")


def _strings(data: bytes) -> Iterator[str]:
    position = data.index(_R_STRING)
    while data[position : position + 4] == _R_STRING:
        (length,) = struct.unpack(">i", data[position + 4 : position + 8])
        start = position + 8
        yield data[start : start + length].decode("utf-8")
        position = start + length


def main() -> None:
    """Write the three files into the directory that the command line names."""
    out = Path(sys.argv[1])
    for name, records in {"devils_dictionary": devil(), "kjv": kjv(), "austen": austen()}.items():
        lines = [
            json.dumps({"id": key, "source": name, "text": text}, ensure_ascii=False) for key, text in records
        ]
        (out / f"{name}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
        print(f"{name}: {len(lines)} records")


if __name__ == "__main__":
    main()
