"""Specifications of gates in TOML: broken, of the wrong types, without end, or naming what is dangerous."""

from __future__ import annotations

import os
from pathlib import Path

from hostile_payloads import written
from hostile_registry import add_case, hostile

GROUP = "specifications"
GOOD = """\
schema_version = 1

[reference]
model = "subjects:make_model"

[data]
examples = "subjects:make_data"

[[candidate]]
scheme = "prune(density=0.4)"

[predictions]
min_agreement = 0.5
"""


def reads(folder: Path, content: bytes | str, name: str = "gate.toml"):
    """Write a specification, and return the call that reads it."""
    from pytest_cp.specification import read_specification

    path = written(folder / name, content)
    return lambda: read_specification(path)


def changed(old: str, new: str) -> str:
    """Return the good specification with one part replaced."""
    if old not in GOOD:
        raise ValueError(f"{old} is no part of the good specification")
    return GOOD.replace(old, new)


_BOUND = "min_agreement = 0.5"
_TEXTS = {
    "an empty file": ("", r"needs a table \[reference\]"),
    "a bracket that stays open": ("[reference\n", "gate.toml:1: not valid TOML"),
    "a text that stays open": (changed('"subjects:make_model"', '"subjects'), "gate.toml:4: not valid TOML"),
    "a value that is missing": (changed("0.5", ""), "gate.toml:13: not valid TOML"),
    "a key twice": (
        changed(_BOUND, f"{_BOUND}\n{_BOUND}"),
        "gate.toml:14: not valid TOML|not valid TOML: Cannot overwrite",
    ),
    "a table twice": (GOOD + "\n[predictions]\n", "not valid TOML: Cannot declare"),
    "a table that is a value": (GOOD + "\n[predictions.min_agreement]\n", "not valid TOML"),
    "JSON": ('{"schema_version": 1}', "gate.toml:1: not valid TOML"),
    "YAML": ("schema_version: 1\n", "gate.toml:1: not valid TOML"),
    "another encoding": (GOOD.encode("utf-16"), "can't decode|byte order"),
    "bytes that are no UTF-8": (GOOD.encode() + b"\n# \xff\xfe\n", "can't decode byte"),
    "a byte order mark": (b"\xef\xbb\xbf" + GOOD.encode(), "begins with a byte order mark"),
    "bytes of zero": (GOOD + "\n\0\0\0", "not valid TOML"),
    "control characters": (changed("subjects:make_model", "subjects:\x1b[2J"), "not valid TOML"),
    "half a file": (GOOD[:100], "not valid TOML|needs a table"),
    "random bytes": (bytes(range(256)), "can't decode|not valid TOML"),
    "an unknown escape": (changed("subjects:make_model", "subjects\\x41"), "not valid TOML"),
    "lists within lists, 100 000 deep": ("a = " + "[" * 100_000 + "]" * 100_000, "nested too deeply"),
    "lists within lists, 200 deep": ("a = " + "[" * 200 + "]" * 200, "more than 64 deep|nested too deeply"),
    "tables within tables, 200 deep": ("a = " + "{a = " * 200 + "1" + "}" * 200, "more than 64 deep|nested too deeply"),
    "a key of 50 000 parts": (
        "execution." + "a." * 50_000 + "b = 1",
        "gate.toml:1: not valid TOML: a dotted key of more than 64",
    ),
    "a table of 50 000 parts": (
        "[" + "a." * 50_000 + "b]",
        "gate.toml:1: not valid TOML: a dotted key of more than 64",
    ),
    "quoted keys of 50 000 parts": ('"a b".' * 50_000 + "b = 1", "a dotted key of more than 64"),
    "a number of 70 bits": (changed("0.5", str(1 << 70)), "more than 64 bits"),
    "a number of 40 000 bits, in hexadecimal": (changed("0.5", "0x" + "f" * 10_000), "more than 64 bits"),
    "a number of 10 000 digits": (changed("0.5", "9" * 10_000), "not valid TOML"),
    "a list of a number of 40 000 bits": (changed("0.5", "[0x" + "f" * 10_000 + "]"), "more than 64 bits"),
    "a bound above its range": (changed("0.5", "1.5"), r"gate.toml:13: .*must be a number in \[0.0, 1.0\]"),
    "a bound below its range": (changed("0.5", "-1e300"), "gate.toml:13: .*must be a number in"),
    "a bound that is infinite": (changed("0.5", "inf"), "gate.toml:13: .*must be a number in"),
    "a bound that is no number": (changed("0.5", "nan"), "gate.toml:13: predictions.min_agreement = nan"),
    "a bound that is a truth value": (changed("0.5", "true"), "gate.toml:13: .*must be a number in"),
    "a bound that is a date": (changed("0.5", "2030-01-31"), "gate.toml:13: .*must be a number in"),
    "a bound that is a list": (changed("0.5", "[0.5]"), "gate.toml:13: .*must be a number in"),
    "a bound of code": (changed("0.5", "\"__import__('os').system('true')\""), "gate.toml:13: .*must be a number in"),
    "a bound of noise with code": (changed("0.5", '"noise + exit()"'), "gate.toml:13: .*must be a number in"),
    "a bound of noise that is not told": (changed("0.5", '"noise"'), "no table .noise.; write one with references"),
    "a bound of 100 000 letters": (changed("0.5", '"' + "x" * 100_000 + '"'), "gate.toml:13: .*must be a number in"),
    "an unknown bound": (changed("min_agreement", "min_agrement"), "gate.toml:13: unknown key min_agrement; did you"),
    "an unknown key of two lines": (changed(_BOUND, _BOUND + '\n"\\u001b[2J\\nx" = 1'), "unknown key"),
    "an unknown key of 100 000 letters": (changed(_BOUND, _BOUND + f"\n{'k' * 100_000} = 1"), "unknown key kkkk"),
    "an unknown table": (GOOD + "\n[predictionz]\nmin = 1\n", "gate.toml:15: unknown key predictionz; did you mean"),
    "no requirement": (changed(_BOUND, ""), "predictions has no requirement"),
    "no level": (changed("[predictions]\nmin_agreement = 0.5\n", ""), "no requirements"),
    "no data": (changed('[data]\nexamples = "subjects:make_data"\n', ""), r"needs a table \[data\]"),
    "no candidate": (changed('[[candidate]]\nscheme = "prune(density=0.4)"\n', ""), r"needs a table \[\[candidate\]\]"),
    "a candidate of nothing": (changed('scheme = "prune(density=0.4)"', ""), "candidate.0"),
    "a candidate twice": (
        changed("[predictions]", '[[candidate]]\nscheme = "prune(density=0.4)"\n[predictions]'),
        "two candidates",
    ),
    "a candidate that is two things": (
        changed("[predictions]", 'command = ["x"]\n[predictions]'),
        "one of scheme, model",
    ),
    "a candidate that is a table": (changed("[[candidate]]", "[candidate]"), r"write \[\[candidate\]\]"),
    "a reference of two kinds": (changed("[data]", 'file = "a.pt"\n[data]'), "exactly one of model, file, command"),
    "a reference that is a text": (
        changed('[reference]\nmodel = "subjects:make_model"', 'reference = "x"'),
        "must be a table",
    ),
    "a scheme that is code": (changed("prune(density=0.4)", "__import__('os').system('true')"), "gate.toml:10"),
    "a scheme that is not there": (changed("prune(density=0.4)", "shrink(density=0.4)"), "gate.toml:10: .*shrink"),
    "a scheme of a density of nan": (changed("density=0.4", "density=nan"), "gate.toml:10"),
    "a scheme of a density of 10^400": (changed("density=0.4", f"density=1{'0' * 400}"), "gate.toml:10"),
    "a scheme of 100 000 brackets": (changed("density=0.4", "density=" + "(" * 100_000), "gate.toml:10"),
    "a scheme of 20 000 stages": (changed("prune(density=0.4)", "prune(density=0.4) | " * 20_000), "gate.toml:10"),
    "a version of the future": (changed("schema_version = 1", "schema_version = 99"), "gate.toml:1: .*must be 1"),
    "a version that is a text": (changed("schema_version = 1", 'schema_version = "1"'), "gate.toml:1: .*must be 1"),
    "a seed below zero": (GOOD + "\n[execution]\nseed = -1\n", "gate.toml:16: execution.seed"),
    "a seed that is a fraction": (GOOD + "\n[execution]\nseed = 0.5\n", "gate.toml:16: execution.seed"),
    "batches of nothing": (GOOD + "\n[execution]\nbatch_size = 0\n", "gate.toml:16: execution.batch_size"),
    "images of no pixels": (changed("[[candidate]]", "size = [0, 0]\n[[candidate]]"), "gate.toml:9: data.size"),
    "an option of a file without a file": (
        changed("[data]", "allow_pickle = true\n[data]"),
        "applies to a file",
    ),
    "pickles allowed by a text": (
        changed('model = "subjects:make_model"', 'file = "a.pt"\nallow_pickle = "yes"'),
        "must be true or false",
    ),
    "a confidence of 1": (GOOD + "confidence = 1.0\n", "gate.toml:14: predictions.confidence"),
    "a confidence that is no number": (GOOD + "confidence = nan\n", "gate.toml:14: predictions.confidence = nan"),
    "slices without metadata": (GOOD + '[predictions.slices]\na = {column = "x", equals = 1}\n', "needs data.metadata"),
    "slices that are code": (GOOD + "[predictions.slices]\na = 7\n", "gate.toml:15"),
    "candidates that are not there": (GOOD + 'candidates = ["nobody"]\n', "unknown candidate 'nobody'"),
    "a long line of brackets and spaces": (
        changed("0.5", '7\nmethod = """\n[' + " " * 200_000 + 'x"""'),
        "gate.toml:13|gate.toml:14",
    ),
}
for _name, (_text, _tells) in _TEXTS.items():
    add_case(GROUP, _name, lambda folder, text=_text: reads(folder, text), tells=_tells, names="gate.toml")


@hostile(GROUP, "more than 4 MiB", tells="at most 4,194,304", names="gate.toml")
def _(folder):
    return reads(folder, GOOD + "#" * (4 << 20))


def _special(folder: Path, make):
    from pytest_cp.specification import read_specification

    make(folder / "gate.toml")
    return lambda: read_specification(folder / "gate.toml")


for _name, _make, _tells in (
    ("no file", lambda path: None, "there is no such file"),
    ("a folder", lambda path: path.mkdir(), "is a folder"),
    ("a FIFO", os.mkfifo, "not a regular file"),
    ("a link to an endless device", lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    ("a link to itself", lambda path: path.symlink_to(path), "symbolic links"),
    ("a link to nowhere", lambda path: path.symlink_to("nowhere"), "a link to .*which leads nowhere"),
):
    add_case(
        GROUP,
        f"{_name} in its place",
        lambda folder, make=_make: _special(folder, make),
        tells=_tells,
        names="gate.toml",
    )


@hostile(f"control: {GROUP}", "the good specification is read", tells="", names="")
def _(folder):
    return reads(folder, GOOD)
