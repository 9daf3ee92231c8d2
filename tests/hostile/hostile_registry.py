"""The corpus of hostile and damaged inputs: named cases, each of which makes an input and says what reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Action = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One input: `build` writes it into an empty folder and returns the call that must refuse it.

    `tells` is a pattern that the message must hold, `names` what it must name, which is the input's file or argument.
    A control has neither, or tells "executed" where its payload runs because it is let.
    """

    group: str
    name: str
    tells: str
    names: str
    build: Callable[[Path], Action]

    @property
    def label(self) -> str:
        """The name of the case in the whole corpus."""
        return f"{self.group}: {self.name}"


CASES: dict[tuple[str, str], Case] = {}


def add_case(group: str, name: str, build: Callable[[Path], Action], *, tells: str, names: str) -> None:
    """Put a case into the corpus; its name must be new in its group."""
    if (group, name) in CASES:
        raise ValueError(f"two cases of {group} are called {name}")
    CASES[group, name] = Case(group, name, tells, names, build)


def hostile(group: str, name: str, *, tells: str, names: str):
    """Put the decorated function into the corpus."""

    def add(build):
        add_case(group, name, build, tells=tells, names=names)
        return build

    return add


def cases_of(group: str) -> list[Case]:
    """Return the cases of a group in the order in which they were written."""
    return [case for case in CASES.values() if case.group == group]


def groups() -> list[str]:
    """Return the names of all groups; those of controls, which must work, begin with "control: "."""
    return list(dict.fromkeys(case.group for case in CASES.values()))
