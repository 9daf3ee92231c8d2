"""Trials in other processes and on a Dask cluster find what they find here."""

import pytest
import search_subjects

from cp_compress import MissingExtraError
from cp_compress.base import parallel
from cp_compress.base.digests import digest_model
from cp_compress.search import TrialError, search


def find(**options):
    constraint = search_subjects.agreement(0.75)
    settings = {"objective": "artifact_bytes", "constraints": constraint, "trials": 4, **options}
    return search(search_subjects.model(), search_subjects.space(), **settings)


def test_processes_find_what_one_finds(tmp_path):
    def finish(candidate, scheme):
        if scheme.density > 0.6:
            raise ZeroDivisionError("a bug of the user's")
        return candidate

    serial = find(batch=2)
    parallel = find(batch=2, jobs=2, state=tmp_path / "state.json")
    assert parallel.trials == serial.trials
    assert digest_model(parallel.best) == digest_model(serial.best)
    # the same workers go on to another search, and their errors come back
    with pytest.raises(TrialError, match=r"density=0.66\d* \(prune.*ZeroDivisionError"):
        find(batch=2, jobs=2, finish=finish)


def test_a_dask_cluster_finds_what_one_process_finds():
    distributed = pytest.importorskip("distributed")
    serial = find(batch=2)
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster),
    ):
        spread = find(batch=2, jobs=2, backend="dask")
    assert spread.trials == serial.trials
    assert digest_model(spread.best) == digest_model(serial.best)


def test_a_missing_cluster_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(parallel.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pytest-cp\[cluster\]"):
        find(backend="dask")
