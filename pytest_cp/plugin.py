"""The hooks through which pytest loads the plugin.

It imports neither torch nor Hypothesis, and nothing that `pytest --help` has no use for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from cp_compress.base.error_reasons import printable_lines
from pytest_cp import hookspecs
from pytest_cp.checks.execution import using_execution
from pytest_cp.checks.recorder import Recorder
from pytest_cp.checks.records import REPORT_ATTRIBUTE, recording
from pytest_cp.configuring import configure, history_notes, waivers
from pytest_cp.report.elsewhere import add_properties
from pytest_cp.session import options, parametrization, selection
from pytest_cp.session.extending import add_extensions, remove_extensions
from pytest_cp.session.fixtures import (  # noqa: F401  pytest finds the fixtures in this module
    compressed_dataset,
    compressed_model,
    cp_device,
    dataset,
    reference_model,
    scope_hint,
)
from pytest_cp.session.gatekeeping import (
    Attempt,
    collect_report,
    collect_skipped_module,
    fail_unwritten_reports,
    fail_what_no_test_fails,
    held_to,
    note_collected_gates,
    note_leftovers,
    refuse_lucky_baselines,
)
from pytest_cp.session.overrides import forget_other_overrides
from pytest_cp.session.own_settings import taken_away
from pytest_cp.session.progress import show_progress, tell_work
from pytest_cp.session.selection import may_compare
from pytest_cp.session.short_summary import ShortSummary
from pytest_cp.session.shown import make_printable
from pytest_cp.session.state import is_worker, session_state, start_session
from pytest_cp.specification.collecting import GateFile, collect_gate, require_gate

_USED_OPTIONS = "cp_used_options"
_UNTOLD_GATES = "cp_untold_gates"
_LEFTOVERS = "cp_leftovers"
_DESELECTED = "cp_deselected"
_ATTEMPT = pytest.StashKey[Attempt]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare options and ini keys."""
    options.add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the hooks that others implement."""
    pluginmanager.add_hookspecs(hookspecs)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Forget what the hooks added."""
    remove_extensions(config)


def pytest_configure(config: pytest.Config) -> None:
    """Check the configuration before anything runs."""
    add_extensions(config)
    try:
        configure(config)
    except pytest.UsageError as error:
        raise pytest.UsageError(printable_lines(error)) from error
    start_session(config, waivers(config))
    if not is_worker(config):
        session_state(config).notes += [*taken_away(config), *history_notes(config)]
        show_progress(config)
        tell_work(config)
        config.pluginmanager.register(_Collector(config), "pytest_cp_collector")
        config.pluginmanager.register(ShortSummary(), "pytest_cp_short_summary")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Generator[None, None, None]:
    """Let no report of an earlier run outlive the start of this one, and say which option a misspelt one means."""
    from pytest_cp.report.unfinished import replace_old_reports

    replace_old_reports(early_config)
    yield
    options.refuse_misspelt_options(parser, args)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Write reports of a run that did not finish: they stay where the process ends by itself."""
    if not is_worker(session.config):
        from pytest_cp.report.unfinished import write_unfinished

        write_unfinished(session.config)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Put the tests of a specification in the place of the ready-made gate."""
    return collect_gate(file_path, parent)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Remember every collected test, even if it is not selected: its saved baselines still have a test."""
    session_state(item.config).collected.add(item.nodeid)
    selection.note_found([item])


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Remember a module whose tests are unknown, because it was skipped or failed as a whole, or left out by --lf."""
    report = yield
    report.cp_missing_subjects = isinstance(collector, GateFile) and collector.misses_subjects  # type: ignore[attr-defined]
    if not report.passed:
        session_state(collector.config).unread_modules.add(collector.nodeid)
        make_printable(report)
    selection.note_last_failed(collector, report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> Generator[None, bool | None, bool | None]:
    """Remember the modules with gates that --ignore leaves out."""
    ignored = yield
    if ignored:
        selection.note_ignored(config, collection_path)
    return ignored


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests once for each scheme and codec."""
    parametrization.parametrize(metafunc)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse schemes and codecs on the command line that no test uses; workers leave this to their controller."""
    refuse_lucky_baselines(session)
    require_gate(session)
    note_leftovers(session)
    unused = None if is_worker(session.config) else parametrization.unused_option(session.config)
    if unused is not None:
        raise pytest.UsageError(unused)
    note_collected_gates(session)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Record the checks of a test, in all its phases and attempts."""
    execution = options.execution(item.config, item.get_closest_marker("cp_execution"))
    execution = dataclasses.replace(execution, candidates=parametrization.candidates_of(item))
    recorder = Recorder(item.nodeid, options.reproducing_arguments(item), held_to(item))
    item.stash[_ATTEMPT] = Attempt(item, recorder)
    with recording(recorder), using_execution(execution):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    """Fail a test whose fixtures caught a failed check, or that has an unknown marker of the plugin."""
    parametrization.refuse_misspelt_markers(item)  # functions were checked before; there are other kinds of tests
    forget_other_overrides(item)
    with item.stash[_ATTEMPT].running():
        result = yield
    item.stash[_ATTEMPT].refuse_caught()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Fail a gate that compared nothing, or whose earlier attempt found a failure."""
    attempt = item.stash[_ATTEMPT]
    attempt.expect_subjects()
    with attempt.running():
        result = yield
    attempt.require_comparison()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    """Fail a test whose fixtures caught a failed check when they ended."""
    with item.stash[_ATTEMPT].running():
        result = yield
    item.stash[_ATTEMPT].refuse_caught()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach the checks of a phase to its report, where workers and other reports find them."""
    report = yield
    attempt = item.stash.get(_ATTEMPT, None)
    if attempt is not None and attempt.runs:
        attempt.take_part(report)
    elif attempt is not None:
        attempt.refuse_skip(report)
        if report.failed and call.excinfo is not None:
            attempt.note_failure(report, call.excinfo)
        setattr(report, REPORT_ATTRIBUTE, attempt.recorder.take())
        if attempt.is_gate or getattr(report, REPORT_ATTRIBUTE) or may_compare(item):
            make_printable(report, call.excinfo)
        report.cp_gate = attempt.is_gate  # type: ignore[attr-defined]
        hint = scope_hint(str(report.longrepr)) if report.failed else None
        if hint is not None:
            report.sections.append(("pytest_cp hint", hint))
        if call.when == "call":
            add_properties(item, report)
        state = session_state(item.config)
        report.cp_notes = state.told()  # type: ignore[attr-defined]
        if is_worker(item.config) and state.collected_gates:  # sent once: the controller collects nothing itself
            report.cp_collected_gates = sorted(state.collected_gates)  # type: ignore[attr-defined]
            report.cp_deselected = state.deselected  # type: ignore[attr-defined]
            state.collected_gates = set()
    return report


class _Collector:
    """Collects the test reports in the process that receives all of them: the only or the controlling one."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the checks of a report."""
        collect_report(self._config, report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Take note of a module that was skipped as a whole."""
        collect_skipped_module(self._config, report)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Learn from a worker of pytest-xdist what its tests took, which gates it did not run, and unanswered baselines."""
    told, state = getattr(node, "workeroutput", {}), session_state(node.config)
    state.used_options.update(told.get(_USED_OPTIONS, ()))
    state.collected_gates.update(told.get(_UNTOLD_GATES, ()))
    state.leftovers = list(dict.fromkeys([*state.leftovers, *told.get(_LEFTOVERS, ())]))
    state.deselected |= told.get(_DESELECTED, {})


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the reports, and fail a session in which gates were asked for and none compared anything."""
    if is_worker(session.config):
        state = session_state(session.config)
        told = {
            _USED_OPTIONS: sorted(state.used_options),
            _UNTOLD_GATES: sorted(state.collected_gates),
            _LEFTOVERS: state.leftovers,
            _DESELECTED: state.deselected,
        }
        session.config.workeroutput.update(told)  # type: ignore[attr-defined]
    else:
        from pytest_cp.report import append_step_summary, write_reports

        fail_what_no_test_fails(session)
        unwritten = write_reports(session)
        if unwritten:
            fail_unwritten_reports(session, unwritten)
            write_reports(session)  # the others then say that the session failed, and why
        append_step_summary(session)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: pytest.ExitCode, config: pytest.Config
) -> None:
    """Show one row per check, and the candidates by level."""
    from pytest_cp.report.terminal import write_summary

    write_summary(terminalreporter, session_state(config), int(exitstatus))
