"""One spelling for one value: whatever type, unit, zone, writer or file it comes in, it is the same text, its key.

| value | key | also spelled |
|---|---|---|
| boolean | `1`, `0` | the texts true, True, TRUE, false, False, FALSE; the numbers 1 and 0 |
| whole number | `-12` | 12.0, 12.00, 1.2e+01, -0.0, decimals, text of digits without leading zeros, of any length |
| other number | `4.1`, `1e-07` | 4.10, decimals; a float32 in 64 bits (0.10000000149011612 is `0.1`) |
| date | `2026-01-02` | midnight of that day |
| time | `2026-01-02 03:04:05.6` in UTC | any unit, any zone (none is UTC), ISO text with T, Z or an offset |
| time of day | `03:04:05.6` | any unit, text with zeros behind |
| duration | `1 days 02:03:04.5` | any unit; text as pandas writes it |
| text | itself, in Unicode's composed form (NFC) | UTF-8 bytes, dictionaries, large and view types |

Other text stays as it is: `007`, `+5`, `1e3`, `.5`, ` 12`, `Yes`, `nan` and the empty text are texts of their own. Null
and a float's NaN are missing; where training knew only one of null and the empty text, the other is taken as it. A
float from 2^53 on (a float32 from 2^24 on), up to the end of 64-bit integers, may stand for several of them and is
refused. Where texts that are alike as numbers are to stay apart (the versions 4.1 and 4.10) a field says `exact: true`:
then text is taken letter by letter, and other types as they were written before this table was made (format 1).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

FORMAT = 2  # of the keys in vocabularies and hashes; 1 took text as it stood and times with their unit's zeros
_KNOWN = {"True": "1", "true": "1", "TRUE": "1", "False": "0", "false": "0", "FALSE": "0", "-0": "0"}
_NUMBER = r"-?(?:0|[1-9][0-9]*)\.[0-9]+"
_SCIENTIFIC = r"-?[1-9](?:\.[0-9]+[eE][+-]?|[eE][+-])[0-9]{1,3}"  # no hex digits: they have neither point nor sign
_MOMENT = r"([0-9]{4})-([0-9]{2})-([0-9]{2})[ T]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(\.[0-9]{1,9})?)?"
_ZONE = r" ?(Z|UTC|[+-][0-9]{2}(?::?[0-9]{2})?)?"
_CLOCK = r"[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]+"
_SPAN = r"-?[0-9]+ days \+?[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?"
_SPELLED_OTHERWISE = f"^(?:{'|'.join(_KNOWN)}|{_NUMBER}|{_SCIENTIFIC}|{_MOMENT}{_ZONE}|{_CLOCK}|{_SPAN})$"
_PARTS = (b".", b":", b"+", b"-", b"u", b"U", b"l", b"L")  # one is in each of those (tr*u*e, fa*l*se)
_FIRST = np.isin(np.arange(256), list(b"-0123456789tTfF"))  # and each begins with one of these
_NUMERIC, _MOMENTS = re.compile(f"(?:{_NUMBER}|{_SCIENTIFIC})", re.ASCII), re.compile(_MOMENT + _ZONE, re.ASCII)
_WHOLE_BELOW = {16: 2.0**24, 32: 2.0**24, 64: 2.0**53}  # bits of a float -> up to where it holds every whole number


class Unknowable(ValueError):
    """A float that may stand for several whole numbers."""


def spell(values: pa.Array, exact: bool = False) -> tuple[list[str | None], bool]:
    """The keys of scalar values (n,) that are not null, None for NaN; and whether texts became other texts.

    Raises Unknowable (see the module), and UnicodeDecodeError for bytes that are no UTF-8.
    """
    kind = values.type
    if types.is_floating(kind):
        return _floats(values, exact), False
    if types.is_boolean(kind):
        return ["1" if value else "0" for value in values.to_pylist()], False
    if types.is_decimal(kind):
        return [_plain(value) if exact else _decimal(value) for value in values.to_pylist()], False
    if types.is_temporal(kind) and not exact:
        return _times(values), False
    if types.is_integer(kind) or types.is_temporal(kind):
        return values.cast(pa.string()).to_pylist(), False
    if types.is_binary(kind) or types.is_large_binary(kind):
        values = pa.array([value.decode("utf-8") for value in values.to_pylist()], pa.large_string())
    return (values.to_pylist(), False) if exact else _texts(values)


def respell(keys: Sequence[str]) -> list[str]:
    """Keys of format 1 as they are spelled now; one that nobody can know stays as it was."""
    return _texts(pa.array(keys, pa.large_string()), lenient=True)[0]


def _texts(values: pa.Array, lenient: bool = False) -> tuple[list[str], bool]:
    """Only texts outside ASCII, and those that may be spelled otherwise, are looked at one by one."""
    keys = values.to_pylist()
    edges, content = _content(values)  # most columns need no more than a look at their letters
    found = [] if content.isascii() else [(at, _composed) for at in _where(pc.invert(pc.string_is_ascii(values)))]
    if any(part in content for part in _PARTS):
        first = np.frombuffer(content + b" ", np.uint8)[edges[:-1]]
        doubtful = np.flatnonzero(_FIRST[first])
        matches = pc.match_substring_regex(values.take(pa.array(doubtful)), _SPELLED_OTHERWISE)
        found += [(at, _text) for at in doubtful[_where(matches)].tolist()]
    touched = False
    for at, spelling in found:
        try:
            before, keys[at] = keys[at], spelling(keys[at])
            touched = touched or keys[at] != before
        except Unknowable:
            if not lenient:
                raise
    return keys, touched


def _content(values: pa.Array) -> tuple[np.ndarray, bytes]:
    """All texts of an array one after the other, and where each begins and ends in that."""
    _, offsets, content = values.buffers()
    width = np.int64 if types.is_large_string(values.type) else np.int32
    if not len(values) or content is None:
        return np.zeros(len(values) + 1, np.int64), b""
    edges = np.frombuffer(offsets, width)[values.offset : values.offset + len(values) + 1]
    return edges - edges[0], content[edges[0] : edges[-1]].to_pybytes()


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _where(mask: pa.BooleanArray) -> list[int]:
    return np.flatnonzero(mask.to_numpy(zero_copy_only=False)).tolist()


def _text(text: str) -> str:
    if known := _KNOWN.get(text):
        return known
    if _NUMERIC.fullmatch(text):
        if text.endswith(".0") and len(text) < 17 and text != "-0.0":
            return text[:-2]
        return _decimal(Decimal(text), text)
    if moment := _MOMENTS.fullmatch(text):
        return _moment(text, moment)
    return _bare(text.replace("+", ""))


def _bare(text: str) -> str:
    """A time without zeros at the end of its fraction, and without a clock at midnight."""
    return _short(text).removesuffix(" 00:00:00")


def _moment(text: str, parts: re.Match) -> str:
    *whole, fraction, zone = parts.groups()
    try:
        at = datetime(*(int(part or 0) for part in whole))
        if zone and zone not in ("Z", "UTC"):
            away = timedelta(hours=int(zone[1:3]), minutes=int(zone[3:].lstrip(":") or 0))
            at = at + away if zone[0] == "-" else at - away
    except (ValueError, OverflowError):  # no such day or hour: a text like any other
        return text
    return _bare(at.isoformat(" ") + (fraction or ""))


def _times(values: pa.Array) -> list[str]:
    if types.is_duration(values.type):
        return [_span(value, values.type.unit) for value in values.cast(pa.int64()).to_pylist()]
    if types.is_timestamp(values.type):
        values = values.cast(pa.timestamp(values.type.unit))  # what is left without the zone is UTC
    texts = values.cast(pa.string())
    texts = pc.replace_substring_regex(texts, r"(\.[0-9]*?)0+$", r"\1")
    texts = pc.replace_substring_regex(texts, r"\.$", "")
    return (texts if types.is_time(values.type) else pc.replace_substring_regex(texts, " 00:00:00$", "")).to_pylist()


def _span(value: int, unit: str) -> str:
    ticks = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    seconds, fraction = divmod(value, ticks)
    days, seconds = divmod(seconds, 86_400)
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{fraction * (10**9 // ticks):09}"
    return _bare(f"{days} days {clock}")


def _floats(values: pa.Array, exact: bool) -> list[str | None]:
    found, below = values.to_numpy(zero_copy_only=False), _WHOLE_BELOW[values.type.bit_width]
    keys: list[str | None] = [None] * len(found)
    whole = np.isfinite(found) & (found == np.trunc(found))
    for at in np.flatnonzero(whole).tolist():
        keys[at] = _whole(float(found[at]), below)
    for at in np.flatnonzero(~whole & ~np.isnan(found)).tolist():
        keys[at] = str(found[at]) if exact else _broken(float(found[at]))
    return keys


def _whole(value: float, below: float = _WHOLE_BELOW[64]) -> str:
    if below <= abs(value) < 2.0**64:
        raise Unknowable(repr(value))
    return str(int(value))


def _broken(value: float) -> str:
    """A float that is not whole: the shortest text that gives it back, in single precision where it fits there."""
    with np.errstate(over="ignore", under="ignore"):
        narrow = np.float32(value)
    return repr(float(str(narrow)) if float(narrow) == value else value)  # one hand writes both: numpy says 1e-04


def _decimal(value: Decimal, text: str = "") -> str:
    """A number that is written out: a float's key where it is how a float is written, else digit by digit."""
    near = float(value)
    if not math.isfinite(near) or Decimal(repr(near)) != value:
        return _plain(value)
    if near != math.trunc(near):
        return _broken(near)
    return _whole(near) if text else _plain(value)


def _plain(value: Decimal) -> str:
    text = _short(f"{value:f}")
    return "0" if text == "-0" else text


def _short(text: str) -> str:
    """Without zeros at the end of a fraction."""
    return text.rstrip("0").removesuffix(".") if "." in text else text
