"""Candidate by level, and which candidate may ship: from records alone, the same in every report."""

import json

import jsonschema
import pytest

from cp_compress.fidelity.judging.judgement import Measurement, judge
from cp_compress.fidelity.judging.requirement import Requirement
from pytest_cp.report.markdown import render_markdown
from pytest_cp.report.matrix import build_matrices
from pytest_cp.report.page import render_page
from pytest_cp.report.schema import document_schema
from pytest_cp.report.shipping import advise, with_candidates
from pytest_cp.report.text_tables import matrix_lines

BOUNDS = {"predictions": "agreement >= 0.9", "embeddings": "cka >= 0.9", "boundaries": "median_change <= 0.2"}
GOOD = {"predictions": 0.95, "embeddings": 0.99, "boundaries": 0.05}


def record(name, level, value, size=None, **parts):
    """Return a check of a candidate at a level; its outcome follows from the value."""
    requirement = Requirement.parse(BOUNDS[level])
    check = judge(Measurement(level, {requirement.metric: value}, {requirement.metric: 100}), [requirement])
    model = None if size is None else {"artifact_bytes": size}
    sizes = {
        "candidate": {"model": model, "bytes_per_example": None},
        "reference": {"model": None, "bytes_per_example": None},
    }
    empty = {
        "error": None,
        "baseline": None,
        "baseline_problems": [],
        "waivers": [],
        "waiver_hints": [],
        "origin": None,
    }
    told = {
        "test": f"gate.toml::{name} {level}",
        "assertion": "assert_it",
        "asserted": True,
        "ordinal": 1,
        "options": {},
    }
    subjects = {
        "candidate": {"name": name, "digest": f"sha256:{name}"},
        "reference": {"name": "Net", "digest": "sha256:r"},
        "data": {"name": "Digits", "digest": "sha256:d", "count": 100},
    }
    rest = {"subjects": subjects, "evidence": {"sizes": sizes, "examples": [], "distances": None, "notes": []}}
    run = {"explored": False, "runs": 1, "seed": 0, "device": "cpu", "worst": None}
    return json.loads(json.dumps(check.to_json())) | empty | told | rest | run | parts


def candidate(name, size=None, **values):
    return [record(name, level, value, size) for level, value in (GOOD | values).items() if value is not None]


def document(*records, status=0, not_compared=(), **parts):
    return {
        "schema_version": 1,
        "created": "2030-01-01T00:00:00+00:00",
        "duration": 1.0,
        "exit_status": status,
        "finished": True,
        "outcomes": {},
        "checks": list(records),
        "not_compared": [{"test": test, "reason": "-k", "kind": "deselected"} for test in not_compared],
        "baselines": {"mode": None, "verdicts": {}},
        "waivers": [],
        "notes": [],
        "sections": [],
        "provenance": {},
        "execution": {"device": None, "seed": 0},
        "environment": {},
    } | parts


def told(found):
    (matrix,) = build_matrices(found)
    return advise(matrix, found)


def test_a_cell_has_the_worst_outcome_and_its_least_headroom():
    other = record("a", "predictions", 0.5) | {"ordinal": 2}
    (matrix,) = build_matrices(document(*candidate("a", predictions=0.975), other))
    cells = matrix.candidates[0].cells
    assert matrix.levels == ("predictions", "embeddings", "boundaries")
    assert cells["predictions"].outcome == "fail"
    assert cells["predictions"].headroom == pytest.approx((0.5 - 0.9) / (1 - 0.9))
    assert cells["predictions"].told == "agreement = 0.5, required ≥ 0.9"
    assert cells["boundaries"].headroom == pytest.approx((0.05 - 0.2) / (0 - 0.2))


def test_the_smallest_that_passes_everywhere_may_ship():
    found = document(
        *candidate("big", 300), *candidate("small", 1200), *candidate("broken", 10, embeddings=0.1), status=1
    )
    assert told(found) == ("pass", "may ship: big, 300 bytes, all three levels pass", "big")


@pytest.mark.parametrize(
    ("records", "parts", "expected"),
    [
        (
            candidate("a", 9, embeddings=None) + candidate("b", 50) + candidate("c", 90, boundaries=None),
            {},
            "may ship: b, 50 bytes, all three levels pass; no choice, though smaller: a (not compared at embeddings)",
        ),
        (
            candidate("a", 9, embeddings=None) + candidate("b", 50, boundaries=0.9),
            {"status": 1},
            "none may ship: of two candidates 1 incomplete, 1 fail; nearest is a, which was not compared at embeddings",
        ),
        (
            candidate("a", 9, boundaries=0.9) + candidate("b", 50, boundaries=0.9, predictions=0.3),
            {"status": 1},
            "none may ship: of two candidates 2 fail; nearest is a, which does not hold at boundaries "
            "(median_change = 0.9, required ≤ 0.2)",
        ),
        (
            candidate("a") + candidate("b"),
            {},
            "may ship: a, b, all three levels pass; which is the smallest is not known (a footprint check would tell)",
        ),
        (
            [record("a", "predictions", 0.95, 9)],
            {},
            "may ship: a, 9 bytes, passes at predictions, the only level compared",
        ),
        (candidate("a", 9), {"finished": False}, "none may ship: the run did not finish"),
        (candidate("a", 9), {"status": 2}, "none may ship: the run was interrupted"),
        (
            candidate("a", 9) + candidate("b", 50),
            {"not_compared": ["gate.toml::a robustness"]},
            "may ship: b, 50 bytes, all three levels pass; no choice, though smaller: a (1 gate did not compare it)",
        ),
        (
            candidate("a", 9),
            {"not_compared": ["test_x.py::test_other"]},
            "may ship: a, 9 bytes, all three levels pass; gates that compared nothing: 1 deselected",
        ),
        (candidate("a", 9), {"status": 1}, "may ship: a, 9 bytes, all three levels pass; but the session failed"),
        (
            [*candidate("a", 9), record("a", "embeddings", 0.1, asserted=False, ordinal=2)],
            {},
            "may ship: a, 9 bytes, all three levels pass",
        ),
        (
            [one for one in candidate("a", 9) if one["comparison"] != "embeddings"]
            + [record("a", "embeddings", 0.1, asserted=False)],
            {},
            "may ship: a, 9 bytes, both levels pass (not asserted: embeddings fail)",
        ),
        (
            [
                one | ({"waivers": [{"owner": "Ada"}]} if one["outcome"] == "fail" else {})
                for one in candidate("a", 9, embeddings=0.1)
            ],
            {},
            "may ship only with waivers: a, 9 bytes, all three levels hold, with waived deviations at embeddings "
            "(cka = 0.1, required ≥ 0.9)",
        ),
        (
            [
                *candidate("a", 9),
                record("", "embeddings", 0.9)
                | {
                    "subjects": {},
                    "error": "bad",
                    "outcome": "error",
                    "test": "x",
                    "requirements": [],
                    "decisive": None,
                },
            ],
            {"status": 1},
            "may ship: a, 9 bytes, all three levels pass; 1 check of no known candidate did not pass",
        ),
    ],
)
def test_what_may_ship(records, parts, expected):
    assert told(document(*records, **parts)).text == expected


def test_an_error_without_subjects_belongs_to_the_candidate_that_its_test_names():
    lost = record("a", "embeddings", 0.95) | {
        "subjects": {}, "comparison": None, "assertion": "assert_embeddings_preserved",
        "outcome": "error", "error": "ValueError: no layer", "requirements": [], "decisive": None,
    }  # fmt: skip
    found = document(*candidate("a", 9, embeddings=None), lost, *candidate("b | a", 50), status=1)
    (matrix,) = build_matrices(found)
    cell = next(one for one in matrix.candidates if one.name == "a").cells["embeddings"]
    assert (cell.outcome, cell.headroom, cell.told) == ("error", None, "ValueError: no layer")
    assert advise(matrix, found).candidate == "b | a"


def test_a_baseline_failure_is_told_in_its_cell():
    stale = {"verdict": "stale", "stale": ["seed"], "metrics": {}, "notes": [], "file": "f"}
    bad = {"baseline": stale, "baseline_problems": ["the baseline is stale"], "outcome": "fail"}
    found = document(*candidate("a", 9, embeddings=None), record("a", "embeddings", 0.95, **bad), status=1)
    page, text = render_page(found), render_markdown(found)
    assert "baseline: other seed" in page
    assert "baseline: other seed" in text


def test_every_report_shows_the_same_matrix():
    long = "prune(density=0.25, scope=layer) | quantize(int8, per_channel=True)"
    found = with_candidates(document(*candidate(long, 300), *candidate("broken", 10, embeddings=0.1), status=1))
    jsonschema.validate(found, document_schema())
    assert [one["name"] for one in found["candidates"]] == [long, "broken"]
    assert found["candidates"][1]["levels"]["embeddings"]["outcome"] == "fail"
    assert found["advice"][0]["text"] == f"may ship: {long}, 300 bytes, all three levels pass"
    page, text = render_page(found), render_markdown(found)
    assert f"may ship: {long}, 300 bytes, all three levels pass" in page
    assert "| broken | ✅ pass 50 % | ❌ fail -800 % | ✅ pass 75 % | 10 |" in text
    (matrix,) = build_matrices(found)
    for width in (60, 80, 200):
        lines = [line for line, _ in matrix_lines(matrix, width, numbered=False)]
        assert max(map(len, lines)) <= width
        words = " ".join(lines).split()
        assert set(long.split()) <= {word.rstrip(":") for word in words}
        assert "-800" in words


def test_two_references_and_stored_data_are_matrices_of_their_own():
    other = [
        one | {"subjects": one["subjects"] | {"reference": {"name": "Net", "digest": "sha256:q"}}}
        for one in candidate("b", 5)
    ]
    stored = record("Net", "predictions", 0.95)
    stored["subjects"] |= {
        "candidate": stored["subjects"]["reference"],
        "compressed_data": {"name": "jpeg", "digest": "sha256:j"},
    }
    found = build_matrices(document(*candidate("a", 9), *other, stored))
    assert [(matrix.stored, [one.name for one in matrix.candidates]) for matrix in found] == [
        (False, ["a"]),
        (False, ["b"]),
        (True, ["jpeg"]),
    ]


def test_a_broken_card_tells_its_reason_first_and_draws_nothing_empty():
    nothing = {"before": [], "after": [], "rays": 0, "max_distance": 1.0}
    bad = record("a", "boundaries", float("nan"), notes=["all examples were left out"])
    bad["evidence"]["distances"] = nothing
    page = render_page(document(bad, status=1))
    card = page[page.index('id="check-1"') :]
    assert card.index("median_change is not a number") < card.index("all examples were left out")
    assert "Distance to the boundary" not in card


def test_who_was_not_compared_everywhere_has_a_sign_of_its_own():
    found = document(*candidate("a", 9, embeddings=None), *candidate("b", 50), not_compared=["gate.toml::c x"])
    (matrix,) = build_matrices(found)
    assert [(one.name, one.standing, one.lacking) for one in matrix.candidates] == [
        ("b", "pass", ""),
        ("a", "incomplete", "not compared at embeddings"),
    ]
    (line,) = (text for text, outcome in matrix_lines(matrix, 200, numbered=False) if outcome == "incomplete")
    assert line.split() == ["a", "pass", "50", "%", "not", "compared", "pass", "75", "%", "9"]
    told = [text for text, _ in matrix_lines(matrix, 200, numbered=True)]
    assert told[-1] == "2 = a: not compared at embeddings"
    assert "| ○ a (not compared at embeddings) |" in render_markdown(found)
    looked = document(*candidate("a", 9, embeddings=None), record("a", "embeddings", 0.99, asserted=False))
    assert build_matrices(document(*looked["checks"], *candidate("b", 50)))[0].candidates[1].lacking == (
        "not asserted at embeddings"
    )
    page = render_page(found)
    assert page.count('<span aria-hidden="true">○</span> a</a> <span class="quiet">not compared at embeddings') == 1
    assert page.count('<span aria-hidden="true">○</span> incomplete</span> a</h3>') == 1


def test_what_is_waived_is_told_before_a_card_is_opened():
    waiver = {"test": "*", "metric": "cka", "at_worst": 0.05, "owner": "Ada", "reason": "r", "expires": "2031-01-01"}
    waived = {"waivers": [waiver | {"requirement": "cka >= 0.9"}]}
    bad = [one | (waived if one["outcome"] == "fail" else {}) for one in candidate("a", 9, embeddings=0.1)]
    used = waiver | {"expired": False, "used_by": [bad[1]["test"]]}
    found = document(*bad, waivers=[used])
    assert "- waived until 2031-01-01 by Ada: r (cka >= 0.9)" in render_markdown(found)
    page = render_page(found)
    summary = page[page.index('<details class="chapter"') :].partition("</summary>")[0]
    assert "waived at embeddings: cka = 0.1, required ≥ 0.9" in summary
    cells = page[page.index('class="stacked cells"') :].partition("</table>")[0]
    assert "cka = 0.1, required ≥ 0.9</span>" in cells
    assert 'data-label="found">0.1</td><td class="n" data-label="at worst">0.05</td>' in page


@pytest.mark.parametrize(
    ("asked", "ratio", "notes", "expected"),
    [
        (4, 12.34, [], ["of 4 changed predictions restored", "50 %", "12.3 dB"]),
        (0, 12.34, [], ["no prediction changed, so by the noise that each adds", "12.3 dB"]),
        (0, "nan", ["no part could be restored"], ["are not known", "no part could be restored"]),
        (0, "nan", [], []),
    ],
)
def test_layers_are_told_with_what_is_known_of_them(asked, ratio, notes, expected):
    layer = {"name": "features.0", "kind": "Conv2d", "share": 0.5, "added_snr": ratio}
    origin = {"layers": [layer], "asked": asked, "notes": notes}
    page = render_page(document(record("a", "predictions", 0.5, origin=origin), status=1))
    block = page.partition('<div class="origin">')[2].partition("</div>")[0]
    assert all(text in block for text in expected)
    assert bool(block) == bool(expected)
    assert "–" not in block
