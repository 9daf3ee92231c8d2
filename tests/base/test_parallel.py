"""Work in other processes ends in the error that it met, whatever the exception is like."""

import pytest

from cp_compress.base.parallel import run_parallel


class TwoPartError(Exception):
    """Cannot be made again from its text alone, as pickle tries."""

    def __init__(self, file, line):
        super().__init__(f"{file} at line {line}")


def fail(number):
    if number == 1:
        raise TwoPartError("labels.csv", 7)
    if number == 2:
        raise KeyError("gone")
    return number


def test_results_come_from_other_processes():
    assert sorted(run_parallel(fail, [(0,), (3,)], jobs=2)) == [0, 3]


def test_an_exception_that_cannot_be_sent_is_told_as_text():
    with pytest.raises(RuntimeError, match=r"TwoPartError: labels\.csv at line 7"):
        list(run_parallel(fail, [(1,)], jobs=2))


def test_any_other_exception_stays_itself():
    with pytest.raises(KeyError, match="gone"):
        list(run_parallel(fail, [(2,)], jobs=2))
