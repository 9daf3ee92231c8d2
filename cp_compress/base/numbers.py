"""How numbers are written for a person: few digits, but enough to tell a value from what it is held to."""

from __future__ import annotations

from typing import Any

_PLACES = 4
_MOST_DIGITS = 17  # of a float64
_LARGEST_PERCENT = 9.99
_LONGEST_WRITTEN = 12  # characters of a bound that a person writes


def number(value: Any, *others: Any, digits: int = 0) -> str:
    """Return a number with four places, more where it would look like another one that it is not.

    Other numbers are 1 and `others`, such as the bound that the value is held to. What is no number is left as it is.
    With `digits` it has so many significant ones instead.

    >>> number(0.98765), number(0.99998), number(0.969996, 0.97), number(0.97, 0.969996)
    ('0.9877', '0.99998', '0.969996', '0.97')
    """
    if not _is_number(value):
        return str(value)
    apart = [other for other in (*others, 1, -1) if _is_number(other) and other != value]
    write = _significant if digits else _placed
    for count in range(digits or _PLACES, _MOST_DIGITS):
        text = write(value, count)
        if all(text != write(other, count) for other in apart):
            return text
    return repr(value)


def percent(share: float, *others: Any, digits: int = 1) -> str:
    """Return a share in percent, with more digits where it would look like another one, like 100 % or like nothing.

    >>> percent(0.5), percent(0.99998), percent(1.0), percent(0.00001)
    ('50.0%', '99.998%', '100.0%', '0.001%')
    """
    apart = [other for other in (*others, 0.0, 1.0) if _is_number(other) and other != share]
    for places in range(digits, _MOST_DIGITS):
        if not any(round(share, places + 2) == round(other, places + 2) for other in apart):
            return f"{share:.{places}%}"
    return f"{share:.{_MOST_DIGITS}%}"


def bound_text(bound: float) -> str:
    """Return a bound as a person has written it; of one that was computed, six digits, unless they make a 1 of it.

    >>> bound_text(0.97), bound_text(0.9999999), bound_text(0.98833333333333), bound_text(1.0)
    ('0.97', '0.9999999', '0.988333', '1')
    """
    text, whole = f"{bound:g}", repr(bound)
    differs = float(text) != bound
    return whole if differs and (len(whole) <= _LONGEST_WRITTEN or abs(float(text)) == 1) else text


def headroom_text(headroom: Any) -> str:
    """Return headroom in whole percent; a dash where there is none to tell.

    >>> headroom_text(0.4321), headroom_text(None), headroom_text(-0.0004), headroom_text(0.9999), headroom_text(-20.0)
    ('43 %', '–', '-0.04 %', '> 99 %', '< -999 %')
    """
    if not _is_number(headroom):
        return "–"
    if abs(headroom) > _LARGEST_PERCENT:
        return "> 999 %" if headroom > 0 else "< -999 %"
    if 0.99 < headroom < 1:
        return "> 99 %"
    return f"{percent(headroom + 0.0, digits=0)[:-1]} %"  # no negative zero


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _significant(value: float, digits: int) -> str:
    return f"{value:.{digits}g}"


def _placed(value: float, places: int) -> str:
    if 0.01 <= abs(value) < 1000:
        return f"{value:.{places}f}".rstrip("0").rstrip(".")
    return _significant(value, places)
