"""What lies ahead is told once, and a budget ends what explains, never what decides."""

import logging

import pytest

from cp_compress.base.showing import work
from cp_compress.base.showing.work import TimeBudgetSpent, Work, limited_to, require_time

SPENT = 1e-9  # seconds


def told(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "cp_compress.work"]


def test_what_lasts_is_told_once_after_the_first_batch(caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(work, "TOLD_SECONDS", 0.0)
    known, shared = Work("rays", 100), Work("maps")
    for batch in range(1, 5):
        known.done(25)
        shared.done(3, share=batch / 4)
    first, second = told(caplog)
    assert first.startswith("rays: up to 100 forward passes, up to about ")
    assert second.startswith("maps: up to 12 forward passes, up to about ")


@pytest.mark.parametrize("passes", [10, 200])
def test_what_is_short_or_already_done_is_not_told(caplog, monkeypatch, passes):
    caplog.set_level(logging.INFO)
    if passes == 10:
        monkeypatch.setattr(work, "TOLD_SECONDS", 0.0)
    Work("rays", passes).done(10)
    assert not told(caplog)


def test_a_spent_budget_ends_work_that_is_not_done_yet():
    require_time()
    with limited_to(SPENT):
        with pytest.raises(TimeBudgetSpent):
            require_time()
        with pytest.raises(TimeBudgetSpent):
            Work("rays", 2).done(1)
        Work("rays", 1).done(1)  # there is nothing left to give up
        Work("rays", 2).count(1)
        with limited_to(None), pytest.raises(TimeBudgetSpent):  # one around holds, too
            require_time()
        with limited_to(1000), pytest.raises(TimeBudgetSpent):
            require_time()
    require_time()
    with limited_to(1000):
        require_time()
