"""A folder with models, data and a gate of a task, and what its report says of the check that fails."""

import json

KINDS = ("json", "html", "markdown")


def prepare(pytester, monkeypatch, module, models, data):
    """Write the module of a reference and its data where inner runs find it."""
    pytester.makepyfile(**{module: models})
    pytester.makeini(f"[pytest]\npythonpath = .\ncp_reference = {module}:reference\ncp_dataset = {module}:{data}\n")
    monkeypatch.syspath_prepend(pytester.path)
    return pytester


def run_reporting(folder, test):
    """Run a test module, and write all reports beside it."""
    folder.makepyfile(test_release=test)
    reports = [f"--cp-report-{kind}=report.{kind}" for kind in KINDS]
    return folder.runpytest_inprocess("-p", "no:cacheprovider", *reports)


def failed_check(folder):
    """Return the first check of the JSON report that fails."""
    report = json.loads(report_text(folder, "json"))
    return next(check for check in report["checks"] if check["outcome"] == "fail")


def report_text(folder, kind):
    return folder.path.joinpath(f"report.{kind}").read_text(encoding="utf-8")
