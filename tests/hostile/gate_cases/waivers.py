"""Files of waivers that are broken, of the wrong types, or would cover everything."""

from __future__ import annotations

from pathlib import Path

from hostile_payloads import python_code, written
from hostile_registry import add_case, hostile

from gate_cases.baselines import SPECIAL, gate

GROUP = "waivers"
GOOD = """\
[[waiver]]
test = "test_*"
metric = "agreement"
at_worst = 0.7
owner = "Ada"
reason = "known"
expires = 2999-01-31
"""


def reads(folder: Path, content: bytes | str):
    """Write a file of waivers, and return the call that reads it."""
    from pytest_cp.waivers.waivers import read_waivers

    path = written(folder / "waivers.toml", content)
    return lambda: read_waivers(path)


def changed(old: str, new: str) -> str:
    """Return the good file with one part replaced."""
    if old not in GOOD:
        raise ValueError(f"{old} is no part of the good file")
    return GOOD.replace(old, new)


_TEXTS = {
    "a bracket that stays open": ("[[waiver]\n", "waivers.toml:1: not valid TOML"),
    "a waiver that is a number": ("waiver = 3\n", "unexpected waiver"),
    "waivers that are numbers": ("waiver = [1, 2]\n", "waiver 1: must be a table"),
    "tables of another name": (changed("[[waiver]]", "[[waver]]"), "unexpected waver; a waiver file may contain only"),
    "a key beside the waivers": ("all = true\n" + GOOD, "unexpected all; a waiver file"),
    "a key of 100 000 letters beside them": ("k" * 100_000 + " = true\n" + GOOD, "unexpected kkk"),
    "JSON": ('{"waiver": []}', "waivers.toml:1: not valid TOML"),
    "another encoding": (GOOD.encode("utf-16"), "can't decode"),
    "bytes that are no UTF-8": (GOOD.encode() + b"# \xff", "can't decode byte"),
    "a byte order mark": (b"\xef\xbb\xbf" + GOOD.encode(), "begins with a byte order mark"),
    "bytes of zero": (GOOD + "\0", "not valid TOML"),
    "a key twice": (GOOD + 'owner = "Bob"\n', "waivers.toml:8: not valid TOML|Cannot overwrite"),
    "lists within lists, 100 000 deep": ("a = " + "[" * 100_000, "nested too deeply|not valid TOML"),
    "tables within tables, 300 deep": ("a = " + "{b = " * 300 + "1" + "}" * 300, "64 deep|nested too deeply"),
    "a key of 50 000 parts": ("a." * 50_000 + "b = 1", "a dotted key of more than 64 parts"),
    "no owner": (changed('owner = "Ada"\n', ""), "waiver 1: missing owner"),
    "no date": (changed("expires = 2999-01-31\n", ""), "missing expires"),
    "no size": (changed("at_worst = 0.7\n", ""), "missing at_worst"),
    "a key that is not known": (GOOD + "forever = true\n", "unknown key forever"),
    "an owner of spaces": (changed('"Ada"', '"  "'), "owner is empty"),
    "an owner that is a list": (changed('"Ada"', '["Ada"]'), "owner = .'Ada'.: must be a string"),
    "a reason of nothing": (changed('"known"', '""'), "reason is empty"),
    "a reason that is a number": (changed('"known"', "12"), "reason = 12: must be a string"),
    "a date that is a text": (changed("2999-01-31", '"2999-01-31"'), "must be a date"),
    "a date with a time": (changed("2999-01-31", "2999-01-31T10:00:00"), "must be a date"),
    "a date that is not there": (changed("2999-01-31", "2999-02-30"), "not valid TOML|must be a date"),
    "a year of five digits": (changed("2999-01-31", "99999-01-31"), "not valid TOML"),
    "a size that is infinite": (changed("0.7", "-inf"), "must be a finite number"),
    "a size that is no number": (changed("0.7", "nan"), "must be a finite number"),
    "a size that is true": (changed("0.7", "true"), "must be a number"),
    "a size that is a text": (changed("0.7", '"0.7"'), "must be a number"),
    "a size of 70 bits": (changed("0.7", str(1 << 70)), "more than 64 bits"),
    "a size of 40 000 bits": (changed("0.7", "0x" + "f" * 10_000), "more than 64 bits"),
    "a size of 5000 digits": (changed("0.7", "9" * 5000), "not valid TOML"),
    "a size of 100 000 letters": (changed("0.7", '"' + "9" * 100_000 + '"'), "must be a number"),
    "a metric that is not there": (changed("agreement", "agrement"), "agrement"),
    "a metric that is code": (changed('"agreement"', f"'''{python_code.__name__}()'''"), "python_code"),
    "a metric that stands for all": (changed("agreement", "*"), "waiver 1: .*"),
    "a test that is a number": (changed('"*"', "7"), "test = 7: must be a string"),
    "the second of two broken": (GOOD + changed('"Ada"', '""'), "waiver 2: owner is empty"),
}
for _name, (_text, _tells) in _TEXTS.items():
    add_case(GROUP, _name, lambda folder, text=_text: reads(folder, text), tells=_tells, names="waivers.toml")


@hostile(GROUP, "more than 4 MiB", tells="at most 4,194,304", names="waivers.toml")
def _(folder):
    return reads(folder, GOOD + "#" * (4 << 20))


def _special(folder: Path, make):
    from pytest_cp.waivers.waivers import read_waivers

    make(folder / "waivers.toml")
    return lambda: read_waivers(folder / "waivers.toml")


for _name, (_make, _tells) in SPECIAL.items():
    add_case(
        GROUP,
        f"{_name} in its place",
        lambda folder, make=_make: _special(folder, make),
        tells=f"{_tells}|not valid TOML",
        names="waivers.toml",
    )


@hostile(GROUP, "a gate with a broken file", tells="cp_waivers: .*not valid TOML", names="waivers.toml")
def _(folder):
    action = gate(folder)
    written(folder / "pytest.ini", "[pytest]\ncp_waivers = waivers.toml\n")
    written(folder / "waivers.toml", "[[waiver]\n")
    return action


@hostile(GROUP, "a gate with a FIFO", tells="cp_waivers: .*not a regular file", names="waivers.toml")
def _(folder):
    import os

    action = gate(folder)
    written(folder / "pytest.ini", "[pytest]\ncp_waivers = waivers.toml\n")
    os.mkfifo(folder / "waivers.toml")
    return action


@hostile(f"control: {GROUP}", "the good file is read", tells="", names="")
def _(folder):
    return reads(folder, GOOD)
