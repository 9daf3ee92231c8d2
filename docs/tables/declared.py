"""The tables of the documentation, each from the declarations that it shows."""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from markdown_parts import (
    capitalised,
    first_sentence,
    link,
    listed,
    pages_of_objects,
    table,
    with_code,
)

if TYPE_CHECKING:
    from cp_compress.fidelity.comparisons import Comparison, Need
    from cp_compress.fidelity.judging.metric import Metric

_ASSERTS = re.compile(r"^(?:Level [A-D]: )?[Aa]ssert that ")
_DEFAULT = re.compile(r"\s*\(default:? (?P<value>[^()]*(?:\([^()]*\))?[^()]*)\)$")
_NEEDS = {"layers": "layers with names", "gradients": "gradients", "module": "the parameters and operations"}
_NO_DEFAULTS = {"": "none", "[]": "none", "False": "`false`"}


def schemes() -> str:
    """Return the table of compression schemes."""
    from cp_compress.model.registry import known_schemes

    return _expressions(known_schemes(), "cp_compress.model")


def codecs() -> str:
    """Return the table of codecs."""
    from cp_compress.data.registry import known_codecs

    return _expressions(known_codecs(), "cp_compress.data")


def attribution_methods() -> str:
    """Return the table of attribution methods."""
    from cp_compress.fidelity.attributions.methods.known import known_methods

    return _expressions(known_methods(), "cp_compress.fidelity")


def assertions() -> str:
    """Return the table of assertions with the requirements that each takes."""
    from cp_compress.fidelity.judging.metric import bound_arguments

    rows = [
        (link(f"pytest_cp.{assertion.__name__}"), _asserted(assertion), listed(bound_arguments(comparison.metrics)))
        for comparison, assertion in _comparisons()
    ]
    return table(("assertion", "what it requires", "requirements"), rows)


def twins() -> str:
    """Return the table of the checks that do not raise."""
    described = [name for name in pages_of_objects() if name.startswith("pytest_cp.assert_")]
    rows = [(f"`{name.removeprefix('pytest_cp.').replace('assert', 'check', 1)}`", link(name)) for name in described]
    return table(("check", "twin of"), rows)


def metrics() -> str:
    """Return a section with the metrics of each comparison; a column that has nothing to say is left out."""
    columns: list[tuple[str, Callable[[Metric], str]]] = [
        ("metric", lambda metric: f"`{metric.name}`"),
        ("meaning", lambda metric: metric.sentence + (f" {metric.source}." if metric.source else "")),
        ("values", lambda metric: f"{_values(metric)} {metric.unit}".strip()),
        ("unchanged model", lambda metric: "" if metric.unchanged is None else _number(metric.unchanged)),
        ("requirement", lambda metric: f"`{metric.argument}`" if metric.argument else "reported only"),
        ("claims", lambda metric: "yes" if metric.claims else "no"),
    ]
    sections = []
    for comparison, assertion in _comparisons():
        members = comparison.metrics
        shown = [column for column in columns if any(column[1](metric) for metric in members)]
        made = table([head for head, _ in shown], [[cell(metric) for _, cell in shown] for metric in members])
        sections.append(f"## `{comparison.name}`\n\n{_made_by(comparison, assertion)}\n\n{made}")
    return "\n\n".join(sections)


def requirements(name: str) -> str:
    """Return the table of the requirements that an assertion takes: what each bounds, and a bound to start from."""
    (members,) = [comparison.metrics for comparison, assertion in _comparisons() if assertion.__name__ == name]
    words = {"min": "at least", "max": "at most"}
    rows = [
        (
            f"`{metric.argument}`",
            metric.sentence,
            metric.unit or "–",
            _values(metric),
            words[str(metric.direction)],
            "yes" if metric.claims else "no",
            _start(metric),
        )
        for metric in members
        if metric.argument is not None
    ]
    return table(("requirement", "meaning", "unit", "range", "direction", "`confidence`", "start from"), rows)


def options() -> str:
    """Return the table of the plugin's command-line options."""
    return _arguments("option", _declared().options)


def ini_keys() -> str:
    """Return the table of the plugin's ini keys."""
    rows = []
    for name, (text, default) in _declared().keys.items():
        meaning, said = _split_default(text)
        value = _NO_DEFAULTS.get(str(default), f"`{default}`")
        rows.append((f"`{name}`", with_code(meaning), said if said and not default else value))
    return table(("key", "meaning", "default"), rows)


def markers() -> str:
    """Return the table of the plugin's markers."""
    from pytest_cp.session.options import MARKER_TEXTS

    split = [text.partition("): ") for text in MARKER_TEXTS]
    return table(("marker", "meaning"), [(f"`{form})`", with_code(meaning)) for form, _, meaning in split])


def commands() -> str:
    """Return the table of the subcommands of cp-compress."""
    rows = [(f"[`{name}`](#cp-compress-{name})", parser.description or "") for name, parser in _commands().items()]
    return table(("command", "what it does"), rows)


def command(name: str) -> str:
    """Return what one subcommand does, and the table of its arguments."""
    parser = _commands()[name]
    shown = [action for action in parser._actions if "--help" not in action.option_strings]
    return f"{parser.description}\n\n{_arguments('argument', shown)}"


def names() -> str:
    """Return the table of the names at the top of cp_compress that a page of a package describes."""
    import cp_compress

    described = pages_of_objects()
    packages = {name.rpartition(".")[2]: name.rpartition(".")[0] for name in described if name.count(".") == 2}
    shared = [name for name in sorted(cp_compress.__all__) if f"cp_compress.{name}" not in described]
    rows = [(link(f"{packages[name]}.{name}"), f"`{packages[name]}`") for name in shared]
    return table(("name", "package"), rows)


TABLES: Mapping[str, Callable[..., str]] = {
    "schemes": schemes,
    "codecs": codecs,
    "attribution-methods": attribution_methods,
    "assertions": assertions,
    "twins": twins,
    "metrics": metrics,
    "requirements": requirements,
    "options": options,
    "ini-keys": ini_keys,
    "markers": markers,
    "commands": commands,
    "command": command,
    "names": names,
}
"""The tables by the names that pages call them by; `command` and `requirements` take the name of one."""


def _comparisons() -> list[tuple[Comparison, Callable[..., Any]]]:
    """Return the comparisons of this package, each with its assertion."""
    from cp_compress.fidelity.comparisons import COMPARISONS
    from pytest_cp.specification.levels import assertion_of

    return [(comparison, assertion_of(name)) for name, comparison in COMPARISONS.items()]


def _asserted(assertion: Callable[..., Any]) -> str:
    return capitalised(_ASSERTS.sub("", first_sentence(assertion)))


def _made_by(comparison: Comparison, assertion: Callable[..., Any]) -> str:
    """Return the function that measures a comparison, the assertion that requires it, and what it needs of models."""
    function = f"compare_{comparison.name}"
    candidates = (f"cp_compress.fidelity.{function}", f"cp_compress.{function}")
    measured = [link(target) for target in candidates if target in pages_of_objects()]
    by = f"Measured by {measured[0]}; required by" if measured else "Measured and required by"
    required = f"{link(f'pytest_cp.{assertion.__name__}')} or by the table `[{comparison.name}]` of a specification"
    return " ".join([f"{by} {required}.", *map(_needed, comparison.needs)])


def _needed(need: Need) -> str:
    of = "both models" if need.of == "both" else "the reference"
    unless = " or ".join(f"`{argument}`" for argument in need.remedy.split(" or ") if argument)
    return f"It needs {_NEEDS[need.what]} of {of}{unless and f', unless {unless} is given'}."


def _expressions(known: Mapping[str, type[Any]], package: str) -> str:
    """Return a table of the dataclasses that expressions name; what all of them take is said once, below it."""
    written = {name: list(map(_field, dataclasses.fields(kind))) for name, kind in known.items()}
    shared = [text for text in next(iter(written.values())) if all(text in others for others in written.values())]
    rows = [
        (
            link(f"{package}.{kind.__name__}", name),
            listed(text for text in written[name] if text not in shared),
            first_sentence(kind),
        )
        for name, kind in known.items()
    ]
    below = f"\n\nAll of them also take {listed(shared)}." if shared else ""
    return table(("name", "arguments", "what it does"), rows) + below


def _field(field: dataclasses.Field[Any]) -> str:
    """Return a field as an expression names it, with its default where it has one."""
    if field.default is dataclasses.MISSING:
        return field.name
    bare = isinstance(field.default, str) and field.default.isidentifier()
    return f"{field.name}={field.default if bare else repr(field.default)}"


class _Declared:
    """Takes the place of pytest's parser, and keeps what is declared."""

    def __init__(self) -> None:
        self._parser = argparse.ArgumentParser()
        self.options: list[argparse.Action] = []
        self.keys: dict[str, tuple[str, Any]] = {}

    def getgroup(self, *names: str) -> _Declared:
        return self

    def addoption(self, *names: str, **settings: Any) -> None:
        self.options.append(self._parser.add_argument(*names, **settings))

    def addini(self, name: str, text: str, **settings: Any) -> None:
        self.keys[name] = text, settings.get("default")


def _declared() -> _Declared:
    from pytest_cp.session.options import add_options

    declared: Any = _Declared()
    add_options(declared)
    kept: _Declared = declared
    return kept


def _commands() -> dict[str, argparse.ArgumentParser]:
    from cp_compress.cli.main import _parser

    (found,) = [action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found.choices)


def _arguments(kind: str, actions: Iterable[argparse.Action]) -> str:
    """Return a table of arguments; without a column of defaults where none has one."""
    rows = [_option(action) for action in actions]
    shown = 3 if any(default for *_, default in rows) else 2
    return table((kind, "meaning", "default")[:shown], [row[:shown] for row in rows])


def _option(action: argparse.Action) -> tuple[str, str, str]:
    """Return an argument, its meaning and its default as the cells of a row."""
    meaning, default = _split_default(action.help or "")
    value = str(action.metavar or action.dest.upper().removeprefix("CP_"))
    first, *others = action.option_strings or [value]
    takes_value = action.option_strings and action.nargs != 0
    named = listed([f"{first} {value}" if takes_value else first, *others])
    meaning = with_code(meaning)
    choices = list(map(str, action.choices or ()))
    if all(f"{choice}:" in meaning for choice in choices):  # each is explained
        meaning = re.sub(rf"\b(?:{'|'.join(choices)})(?=:)", r"`\g<0>`", meaning) if choices else meaning
    else:
        meaning += f"; one of {listed(choices)}"
    return named, meaning, with_code(default) or ("required" if action.option_strings and action.required else "")


def _split_default(text: str) -> tuple[str, str]:
    """Return the help of an option without its default, and the default."""
    found = _DEFAULT.search(text)
    return (text[: found.start()], found["value"]) if found else (text, "")


def _values(metric: Metric) -> str:
    low = "(" if math.isinf(metric.low) else "["
    high = ")" if math.isinf(metric.high) else "]"
    return f"{low}{_number(metric.low)}, {_number(metric.high)}{high}"


def _start(metric: Metric) -> str:
    """Return the bound that a metric declares to start from, as an argument takes it, or what to take it from."""
    if metric.start is None:
        return "from your own values"
    return f"`(0.1, {metric.start:g})`" if metric.leveled else f"`{metric.start:g}`"


def _number(value: float) -> str:
    known = {math.inf: "∞", math.pi: "π"}
    return ("−" if value < 0 else "") + known.get(abs(value), f"{abs(value):g}")
