"""Finds personal data in text by its form: e-mail, phone, card, bank account, social security, address.

Invariants:
- Where a number carries a check digit it must fit: a card passes Luhn, an IBAN passes modulo 97.
- One pass over the text as it is, and one as it looks: digits of other scripts, wide letters, letters of other
  alphabets that look like Latin ones, and signs without width hide nothing. Every expression is bounded, so that
  no text makes it slow.

It finds forms, not people: a name or a street is not found, nor an address that is spelled out ("at", "dot").
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Callable, Iterator

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b")
_PHONE = re.compile(
    r"(?<![\w+.-])(?:"
    r"\+\d{1,3}(?:[ .()/-]{0,2}\d{1,4}){2,6}"  # international
    r"|(?:1[ .-])?\(\d{3}\) ?\d{3}[ .-]\d{4}"  # North American, area code in parentheses
    r"|(?:1[ .-])?\d{3}[.-]\d{3}[.-]\d{4}"
    r")(?![\w-])"
)
_CARD = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-])")
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)")
_SSN = re.compile(r"(?<![\w-])(\d{3})-(\d{2})-(\d{4})(?![\w-])")
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")


# Cyrillic and Greek letters, and a few signs, by the Latin letter or sign that they are taken for.
_LOOKS = str.maketrans(
    "аеорсухіјѕԁһԛԝкмтвнАВЕКМНОРСТУХІЈЅԌԚԜαορνικτυχγΑΒΕΖΗΙΚΜΝΟΡΤΥΧı‐‑‒–—―−⁃∕⁄․",
    "aeopcyxijsdhqwkmtbhABEKMHOPCTYXIJSGQWaopviktuxyABEZHIKMNOPTYXi--------//.",
)


def find(text: str) -> Iterator[tuple[str, str]]:
    """Every piece of personal data: what it is (``email``, ``phone`` …) and the text as it looks, each once."""
    seen = set()
    for reading in readings(text):
        for kind, pattern, check in _FORMS:
            for match in pattern.finditer(reading):
                if check(match.group()) and (kind, match.group()) not in seen:
                    seen.add((kind, match.group()))
                    yield kind, match.group()


def readings(text: str) -> tuple[str, ...]:
    """The text as it is, and as it looks to a reader where that is another."""
    looks = folded(text)
    return (text,) if looks == text else (text, looks)


def folded(text: str) -> str:
    """The text with what looks alike made alike: NFKC, look-alike letters, digits of any script, no zero width."""
    if text.isascii():
        return text
    plain = unicodedata.normalize("NFKC", text).translate(_LOOKS)
    return "".join(_sign(sign) for sign in plain if unicodedata.category(sign) != "Cf")


def _sign(sign: str) -> str:
    digit = unicodedata.decimal(sign, None)
    return sign if digit is None else str(digit)


def luhn(number: str) -> bool:
    """True where the digits pass the check of payment cards."""
    digits = [int(digit) for digit in number if digit.isdigit()]
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = digit * 2 if place % 2 else digit
        total += doubled - 9 if doubled > 9 else doubled
    return bool(digits) and total % 10 == 0


def iban(account: str) -> bool:
    """True where the account number passes ISO 7064 modulo 97-10."""
    compact = account.replace(" ", "").upper()
    if not 15 <= len(compact) <= 34 or not compact.isalnum():
        return False
    return int("".join(str(int(letter, 36)) for letter in compact[4:] + compact[:4])) % 97 == 1


# How many digits the cards have whose number begins so; the longest beginning counts.
_CARD_LENGTHS = {
    "2": (16,),
    "3": (14, 16, 19),
    "34": (15,),
    "37": (15,),
    "4": (13, 16, 19),
    "5": (16,),
    "6": (16, 17, 18, 19),
}


def _card(number: str) -> bool:
    # One number in ten passes Luhn by chance, so beginning and length must fit as well.
    digits = re.sub(r"\D", "", number)
    lengths = _CARD_LENGTHS.get(digits[:2]) or _CARD_LENGTHS.get(digits[0], ())
    return len(digits) in lengths and luhn(digits)


def _phone(number: str) -> bool:
    return 7 <= sum(letter.isdigit() for letter in number) <= 15


def _social_security(number: str) -> bool:
    area, group, serial = number.split("-")
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def _public_address(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def _always(_: str) -> bool:
    return True


_FORMS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("email", _EMAIL, _always),
    ("phone", _PHONE, _phone),
    ("card", _CARD, _card),
    ("iban", _IBAN, iban),
    ("ssn", _SSN, _social_security),
    ("ip", _IPV4, _public_address),
    ("ip", _IPV6, _public_address),
)
