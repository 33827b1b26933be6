"""Dates in a question: the spans of time it speaks of. Pure; English; UTC."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

Span = tuple[int, int]
"""Unix milliseconds, [start, end)."""

MAX_YEARS = 60

_MONTHS = {
    name[:size]: number
    for number, name in enumerate(
        ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
         "december"), 1)
    for size in (3, len(name))
} | {"sept": 9}  # fmt: skip
_MONTH = "|".join(sorted(_MONTHS, key=len, reverse=True))
_UNITS = {"day": 1, "week": 7, "month": 30, "year": 365}

_ISO = re.compile(r"\b(\d{4})-(\d\d)-(\d\d)\b")
_DAY_MONTH = re.compile(rf"\b(\d{{1,2}})(?:st|nd|rd|th)?(?: of)? ({_MONTH})\b\.?,?(?: (\d{{4}})\b)?", re.I)
_MONTH_DAY = re.compile(rf"\b({_MONTH})\.? (\d{{1,2}})(?:st|nd|rd|th)?\b(?:,? (\d{{4}})\b)?", re.I)
_MONTH_YEAR = re.compile(rf"\b({_MONTH})\b\.?,?(?: of)? (\d{{4}})\b", re.I)
# A month alone: written as a name, so that "may" and "march" are not taken for one.
_MONTH_ALONE = re.compile(rf"\b(?:{'|'.join(n.capitalize() for n in _MONTHS if len(n) > 3 or n == 'may')})\b")
_YEAR = re.compile(r"\b(?:in|of|during|since|year) ((?:19|20)\d\d)\b", re.I)
_AGO = re.compile(r"\b(\d{1,3}|an?) (day|week|month|year)s? ago\b", re.I)
_LAST = re.compile(r"\b(yesterday|today|(?:last|this|past) (?:week|month|year))\b", re.I)


def spans(text: str, earliest: int, latest: int, now: int) -> list[Span]:
    """What the first date in ``text`` may mean; a date without a year means each year between ``earliest`` and
    ``latest`` (Unix milliseconds of the items). Empty when there is none."""
    years = range(_year(earliest), min(_year(latest), _year(earliest) + MAX_YEARS) + 1)
    found: list[Span] = []
    for expression, read in _DATES:
        if match := expression.search(text):
            year, month, day = read(match)
            for each in [year] if year else years:
                _add(found, each, month, day)
            return found
    try:
        if match := _AGO.search(text):
            unit = _UNITS[match[2].lower()]
            at = _at(now) - timedelta(days=unit * (1 if match[1].lower() in ("a", "an") else int(match[1])))
            return _span(at - timedelta(days=unit // 2), at + timedelta(days=unit / 2))
        if match := _LAST.search(text):
            return _relative(match[1].lower(), _at(now))
    except OverflowError:  # before the year 1, after 9999
        return found
    return found


def _month(name: str) -> int:
    return _MONTHS[name.lower()]


_DATES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], tuple[int, int, int]]], ...] = (
    (_ISO, lambda m: (int(m[1]), int(m[2]), int(m[3]))),
    (_DAY_MONTH, lambda m: (int(m[3] or 0), _month(m[2]), int(m[1]))),
    (_MONTH_DAY, lambda m: (int(m[3] or 0), _month(m[1]), int(m[2]))),
    (_MONTH_YEAR, lambda m: (int(m[2]), _month(m[1]), 0)),
    (_MONTH_ALONE, lambda m: (0, _month(m[0]), 0)),
    (_YEAR, lambda m: (int(m[1]), 0, 0)),
)


def _add(found: list[Span], year: int, month: int, day: int) -> None:
    try:
        start = datetime(year, month or 1, day or 1, tzinfo=UTC)
        if day:
            end = start + timedelta(days=1)
        elif month:
            end = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
        else:
            end = datetime(year + 1, 1, 1, tzinfo=UTC)
    except (ValueError, OverflowError):  # 31 June; the year 0
        return
    found += _span(start, end)


def _relative(words: str, now: datetime) -> list[Span]:
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if words == "today":
        return _span(midnight, midnight + timedelta(days=1))
    if words == "yesterday":
        return _span(midnight - timedelta(days=1), midnight)
    kind, unit = words.split()
    if kind == "this":
        return _span(midnight - timedelta(days=_UNITS[unit] - 1), midnight + timedelta(days=1))
    reach = 2 if kind == "last" and unit == "week" else 1
    return _span(midnight - timedelta(days=reach * _UNITS[unit]), midnight)


def _span(start: datetime, end: datetime) -> list[Span]:
    return [(int(start.timestamp() * 1000), int(end.timestamp() * 1000))]


def _at(milliseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)


def _year(milliseconds: int) -> int:
    try:
        return _at(milliseconds).year
    except OverflowError:
        return 9999 if milliseconds > 0 else 1
