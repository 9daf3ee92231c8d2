"""`pytest --help` and `import pytest_cp` cost next to nothing."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "hypothesis", "numpy", "scipy", "captum", "sklearn", "PIL", "zfpy")


@pytest.mark.parametrize(
    "code",
    [
        "import pytest_cp",
        "import cp_compress, cp_compress.model, cp_compress.data, cp_compress.fidelity",
        "import pytest; pytest.main(['--help', '-p', 'no:hypothesispytest'])",
    ],
)
def test_nothing_heavy_is_imported(code, tmp_path):
    program = f"import sys\n{code}\nprint('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=600
    )
    assert "LOADED []" in done.stdout


def test_every_public_name_resolves():
    import cp_compress
    import pytest_cp

    for package in (cp_compress, pytest_cp):
        for name in package.__all__:
            assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pytest_cp.nothing
