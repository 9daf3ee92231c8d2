"""Machine code is kept for the next process where it can be, and works where it cannot."""

import numpy as np
import pytest

from cp_compress.data.compiled import compiler

pytest.importorskip("numba", reason="numba is not installed (extra: kernels)")


def double(values):
    for place in range(len(values)):
        values[place] *= 2


def call(compiled):
    values = np.arange(4.0)
    compiled(values)
    assert values.tolist() == [0, 2, 4, 6]
    return sum(compiled._kept.stats.cache_hits.values())


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    return tmp_path


def test_what_is_compiled_is_found_by_the_next_one(cache):
    assert call(compiler.Compiled(double)) == 0
    assert compiler.code_folder().is_relative_to(cache)
    assert list(compiler.code_folder().rglob("*double*.nbc"))
    assert call(compiler.Compiled(double)) == 1


def test_damaged_code_is_compiled_again(cache):
    call(compiler.Compiled(double))
    for file in compiler.code_folder().rglob("*double*"):
        file.write_bytes(file.read_bytes()[:20])
    call(compiler.Compiled(double))


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    assert compiler.code_folder() is None
    assert call(compiler.Compiled(double)) == 0


def test_a_numba_that_cannot_be_imported_is_told_and_one_that_is_absent_is_not(monkeypatch):
    def importing(error):
        def fail(name):
            raise error

        monkeypatch.setattr(compiler.importlib, "import_module", fail)
        return compiler.find_compiled.__wrapped__("zfp_reading")

    assert importing(ModuleNotFoundError("No module named 'numba'", name="numba")) is None
    with pytest.warns(RuntimeWarning, match="numba cannot be imported, .*slower: Numba needs NumPy"):
        assert importing(ImportError("Numba needs NumPy 2.3 or less")) is None
