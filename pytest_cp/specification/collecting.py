"""A specification as pytest collects it: one test for each candidate and each table of requirements."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cp_compress.base.error_reasons import printable_line
from pytest_cp.session.options import specification_path
from pytest_cp.session.selection import meant_by_keyword
from pytest_cp.session.state import session_state
from pytest_cp.specification.errors import SpecificationError
from pytest_cp.specification.missing import missing_subjects
from pytest_cp.specification.reading import Requirements, Table, read_specification

_LISTED = 5
GATE_MODULE = Path(__file__).parent.parent / "gate.py"


def collect_gate(file_path: Path, parent: pytest.Collector) -> GateFile | None:
    """Return the specification where pytest meets the ready-made gate, or the specification itself."""
    path = specification_path(parent.config)
    if path is None or file_path not in (GATE_MODULE, path):
        return None
    name = Path(os.path.relpath(path, parent.config.rootpath)).as_posix()
    gate: GateFile = GateFile.from_parent(parent, path=file_path, name=name, nodeid=name)
    gate.specification_path = path
    return gate


def require_gate(session: pytest.Session) -> None:
    """Refuse a specification that was not collected, and the gate without one; raises pytest.UsageError."""
    gates = [item for item in session.items if isinstance(item, GateItem)]
    path = specification_path(session.config)
    if path is not None and not gates and not session.testsfailed:
        raise pytest.UsageError(f"--cp-spec={path}: none of its tests was selected; {_advice(session, path)}")
    asked = any(Path(name).name in ("pytest_cp.gate", "gate.py") for name in session.config.args)
    if path is None and asked and not session.items:
        raise pytest.UsageError("pytest_cp.gate needs a specification: add --cp-spec gate.toml")


def _advice(session: pytest.Session, path: Path) -> str:
    """Return why no test of a specification is run, and what to do."""
    config = session.config
    found = [item for item in session_state(config).found_gates if isinstance(item, GateItem)]
    if not found:
        return f"run pytest --pyargs pytest_cp.gate --cp-spec {path}"
    names = [item.name for item in found]
    options = [("-k", config.option.keyword), ("-m", config.option.markexpr)]
    given = " and ".join(f"{option} {value!r}" for option, value in options if value) or "what is asked for"
    near = meant_by_keyword(config, names) or f"its tests are {', '.join(map(repr, names[:_LISTED]))}"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED and near.startswith("its") else ""
    return f"{given} selects none of {len(names)}; {near}{more}"


class GateFile(pytest.File):
    """The tests of a specification."""

    specification_path: Path
    misses_subjects = False
    """Whether it could not be collected because files or modules that it names are not there."""

    def collect(self) -> Iterator[pytest.Item]:
        """Yield one test for each candidate and each table that is about it."""
        try:
            specification = read_specification(self.specification_path)
        except SpecificationError as error:
            raise self.CollectError(str(error)) from error
        missing = missing_subjects(specification)
        if missing:
            self.misses_subjects = True
            raise self.CollectError("\n".join(missing))
        self.add_marker(pytest.mark.cp_execution(**specification.execution))
        self.add_marker(pytest.mark.cp_baseline(**specification.baseline))
        state = session_state(self.config)
        if state.gate_subjects is None:
            from pytest_cp.specification.gate_subjects import GateSubjects

            state.gate_subjects = GateSubjects(specification, self.config)
        for candidate in specification.candidates:
            for requirements in specification.requirements:
                if candidate["name"] in requirements.arguments.get("candidates", [candidate["name"]]):
                    name = printable_line(f"{candidate['name']} {requirements.name}")
                    item: GateItem = GateItem.from_parent(self, name=name)
                    item.candidate, item.requirements = candidate, requirements
                    item.cp_candidates = len(requirements.arguments.get("candidates", specification.candidates))
                    yield item


class GateItem(pytest.Item):
    """One candidate checked against one table of requirements."""

    cp_is_gate = True
    cp_candidates: int
    candidate: Table
    requirements: Requirements

    def runtest(self) -> None:
        """Compare and judge."""
        session_state(self.config).gate_subjects.check(self.candidate, self.requirements)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return what to show of a failure: the message, and a traceback only for what was not foreseen."""
        from cp_compress.base.errors import FORESEEN
        from pytest_cp.errors import PreservationError

        told = (*FORESEEN, PreservationError, SpecificationError, pytest.UsageError)
        if isinstance(excinfo.value, told):
            kind = type(excinfo.value)
            return f"{kind.__module__}.{kind.__qualname__}: {excinfo.value}"
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Return where the test comes from: the specification."""
        parent = self.parent
        assert isinstance(parent, GateFile)
        return parent.specification_path, None, self.name
