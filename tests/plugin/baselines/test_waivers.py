"""`cp_waivers`: a known deviation does not fail up to its size and date, and is listed everywhere."""

import datetime

import pytest

from pytest_cp.waivers.waivers import Waiver, WaiverError, Waivers, parse_waivers

GATE = """
@pytest.mark.compress_model("prune(density=0.4)")
def test_gate(compressed_model, reference_model, dataset):
    assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement={bound})
"""
WAIVER = """
[[waiver]]
test = "{test}"
metric = "{metric}"
at_worst = {at_worst}
owner = "Ada"
reason = "the night images are relabelled in ticket 12"
expires = {expires}
"""
LATER, PAST = "2999-01-31", "2001-01-31"


@pytest.fixture
def waived(project):
    """A project whose gate fails, and a function that gives it a waiver."""
    project.pytester.makeini("[pytest]\ncp_waivers = waivers.toml\n")
    project.write_test(GATE.format(bound=0.99))

    def give(test="*::test_gate*", metric="agreement", at_worst=0.7, expires=LATER):
        text = WAIVER.format(test=test, metric=metric, at_worst=at_worst, expires=expires)
        (project.path / "waivers.toml").write_text(text)
        return project

    return give


@pytest.mark.parametrize("arguments", [(), ("-n2",)], ids=["serial", "xdist"])
def test_a_known_deviation_does_not_fail_and_is_listed(waived, arguments):
    outcome = waived().run(*arguments, subprocess=bool(arguments))
    assert outcome.result.ret == 0
    assert outcome.report["outcomes"]["waived"] == 1
    assert outcome.report["outcomes"]["pass"] == 0
    assert outcome.report["checks"][0]["outcome"] == "fail"
    (listed,) = outcome.report["waivers"]
    assert (listed["owner"], listed["expires"], listed["expired"]) == ("Ada", LATER, False)
    assert listed["used_by"] == ["test_gate.py::test_gate[prune(density=0.4)]"]
    outcome.result.stdout.fnmatch_lines(["waived *", "waiver: agreement in *2999-01-31, used by 1 test (Ada: *"])


def test_the_parameters_of_a_test_are_told_as_they_are(waived):
    assert waived(test="test_gate.py::test_gate[prune(density=0.4)]").run().result.ret == 0


@pytest.mark.parametrize(
    ("other", "told"),
    [({"test": "*::test_other*"}, "no check has this name (Ada"), ({"metric": "accuracy"}, "in this session (Ada")],
)
def test_a_waiver_of_something_else_covers_nothing(waived, other, told):
    outcome = waived(**other).run()
    assert told in " ".join(outcome.result.stdout.str().split())
    assert outcome.failed_everywhere
    assert outcome.report["waivers"][0]["used_by"] == []


def test_more_than_the_known_deviation_fails_and_says_so(waived):
    outcome = waived(at_worst=0.9).run()
    assert outcome.failed_everywhere
    outcome.result.stdout.fnmatch_lines(["*waiver for agreement (owner Ada) covers 0.9 at worst"])


def test_an_expired_waiver_fails_the_check_and_the_session(waived):
    outcome = waived(expires=PAST).run()
    assert outcome.junit["failures"] == 2
    outcome.result.stdout.fnmatch_lines(["*waiver for agreement (owner Ada) expired on 2001-01-31"])


def test_an_expired_waiver_fails_though_its_check_passes(waived):
    project = waived(expires=PAST)
    project.write_test(GATE.format(bound=0.1))
    assert project.run().failed_everywhere


def test_a_check_that_could_not_be_made_is_not_waived(waived):
    project = waived()
    project.write_test("""
@pytest.mark.compress_model("prune(density=0.4)")
def test_gate(compressed_model, reference_model, dataset):
    def broken(batch):
        return reference_model(batch) * float("nan")
    assert_preserved_predictions(broken, reference_model, dataset, min_agreement=0.99)
""")
    assert project.run().failed_everywhere


def test_every_requirement_that_does_not_hold_needs_its_waiver(waived):
    project = waived()
    project.write_test(GATE.format(bound="0.99, max_accuracy_drop=0.01"))
    assert project.run().failed_everywhere


def test_a_waived_check_is_still_held_to_its_baseline(waived):
    project = waived()
    assert project.run("--cp-baseline=new").result.ret == 0
    assert project.run("--cp-baseline=check").result.ret == 0
    saved = project.path / "cp_baselines" / "test_gate.json"
    saved.write_text(saved.read_text().replace('"value": 0.7', '"value": 0.9'))
    assert project.run("--cp-baseline=check").failed_everywhere


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"owner": None}, "missing owner"),
        ({"reason": " "}, "reason is empty"),
        ({"expires": "soon"}, "a date such as"),
        ({"expires": datetime.datetime(2030, 1, 1)}, "a date such as"),
        ({"at_worst": "0.7"}, "a number"),
        ({"at_worst": float("inf")}, "must be a finite number"),
        ({"at_worst": -7.0}, "range of agreement"),
        ({"at_worst": 0.0}, "range of agreement"),
        ({"metric": "accuracy_drop", "at_worst": 2.0}, r"\[-1, 1\]"),
        ({"metric": "agrement"}, "did you mean agreement"),
        ({"until": "2030"}, "unknown key until"),
        ({"test": "*::*"}, "matches every test"),
    ],
)
def test_a_waiver_that_does_not_say_what_it_must_is_refused(change, told):
    table = {
        "test": "test_*",
        "metric": "agreement",
        "at_worst": 0.7,
        "owner": "Ada",
        "reason": "known",
        "expires": datetime.date(2999, 1, 1),
    }
    changed = {key: value for key, value in (table | change).items() if value is not None}
    with pytest.raises(WaiverError, match=told):
        parse_waivers([changed], "waivers.toml")


def test_a_waiver_holds_on_its_last_day():
    waiver = Waiver("*", "agreement", 0.7, "Ada", "known", datetime.date(2030, 1, 31))
    assert not waiver.expired(datetime.date(2030, 1, 31))
    assert waiver.expired(datetime.date(2030, 2, 1))


@pytest.mark.parametrize("content", [None, "[[waiver]\n", "waiver = 3\n", "[[waver]]\nowner = 1\n"])
def test_a_file_that_holds_no_waivers_is_refused(waived, content):
    project = waived()
    path = project.path / "waivers.toml"
    path.unlink() if content is None else path.write_text(content)
    outcome = project.run()
    assert outcome.result.ret == pytest.ExitCode.USAGE_ERROR
    outcome.result.stderr.fnmatch_lines(["*cp_waivers: *waivers.toml*"])


def claim(value, low, high):
    requirement = {
        "metric": "agreement",
        "requirement": "",
        "direction": "min",
        "outcome": "inconclusive",
        "value": value,
    }
    return {"test": "test_a.py::test_b", "requirements": [requirement | {"interval": [low, high], "confidence": 0.95}]}


def test_an_inconclusive_claim_is_waived_only_as_far_as_it_is_proven():
    waivers = Waivers([Waiver("test_a.py::*", "agreement", 0.9, "Ada", "known", datetime.date(2999, 1, 1))])
    assert len(waivers.cover(claim(0.96, 0.91, 0.99))) == 1
    lucky = claim(0.96, 0.8, 0.99) | {"waivers": []}
    assert waivers.cover(lucky) == []
    (hint,) = waivers.hints(lucky)
    assert hint.endswith("covers 0.9 at worst, but no better than 0.8 is proven at 95%")


def test_waivers_for_ever_and_for_everything_are_told():
    today = datetime.date(2030, 1, 1)
    gates = ["test_a.py::test_b", "test_a.py::test_c"]

    def doubts(test, days):
        waiver = Waiver(test, "agreement", 0.9, "Ada", "known", today + datetime.timedelta(days))
        return Waivers([waiver], today).doubts(gates)

    assert doubts("test_a.py::test_b", 300) == []
    (long,) = doubts("test_a.py::test_b", 3653)
    assert "does not expire for 10 years" in long
    (wide,) = doubts("test_a*", 300)
    assert "applies to each of the 2 gates" in wide
