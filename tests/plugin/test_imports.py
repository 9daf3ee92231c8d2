"""`pytest --help`, `import pytest_cp` and the mistakes of a specification cost next to nothing."""

import subprocess
import sys

import pytest

MISTAKES = """
from pathlib import Path
import pytest
from cp_compress.base.errors import InvalidArgumentError
from pytest_cp.specification import SpecificationError, read_specification
from pytest_cp.specification.missing import missing_subjects
for scheme, bound in (("prune(sparsity=0.9)", "0.9"), ("quantize(int8)", "99"), ("jpeg(quality=50)", "0.9")):
    Path("gate.toml").write_text(
        "schema_version = 1\\n[reference]\\nmodel = 'a:b'\\n[data]\\nfile = 'none.npz'\\n"
        f"[[candidate]]\\nscheme = '{scheme}'\\ncodec = 'jpeg(quality=50)'\\n[predictions]\\nmin_agreement = {bound}\\n"
    )
    with pytest.raises(SpecificationError):
        read_specification(Path("gate.toml"))
text = Path("gate.toml").read_text()
Path("gate.toml").write_text(text.replace("scheme = 'jpeg(quality=50)'", "scheme = 'quantize(int8)'"))
assert len(missing_subjects(read_specification(Path("gate.toml")))) == 2
text = Path("gate.toml").read_text().replace("model = 'a:b'", "model = 'subjects:mak'")
Path("subjects.py").write_text("import torch\\ndef make(): return torch.nn.Linear(2, 2)\\n")
Path("gate.toml").write_text(text)
(told, _) = missing_subjects(read_specification(Path("gate.toml")))
assert "module subjects defines no mak; did you mean make?" in told, told
Path("gate.toml").write_text(text + "[attributions]\\nmethod = 'gradcam'\\nmin_mean_iou = 0.5\\n")
with pytest.raises(SpecificationError, match="did you mean grad_cam"):
    read_specification(Path("gate.toml"))
"""
HEAVY = ("torch", "hypothesis", "numpy", "scipy", "captum", "sklearn", "PIL", "zfpy")


@pytest.mark.parametrize(
    "code",
    [
        "import pytest_cp",
        "import cp_compress, cp_compress.model, cp_compress.data, cp_compress.fidelity",
        "import pytest; pytest.main(['--help', '-p', 'no:hypothesispytest'])",
        MISTAKES,
    ],
    ids=["pytest_cp", "cp_compress", "help", "mistakes"],
)
def test_nothing_heavy_is_imported(code, tmp_path):
    program = f"import sys\n{code}\nprint('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=600
    )
    assert "LOADED []" in done.stdout


def test_the_assertions_load_neither_torchvision_nor_the_compiler_of_torch():
    """Both take seconds, and few gates use them; captum brings the plots that it offers along when it is first used."""
    code = "import sys, pytest_cp\nfor name in pytest_cp.__all__: getattr(pytest_cp, name)\n"
    code += "import cp_compress.fidelity.boundaries.gate_directions\n"
    code += "print('LOADED', {'torchvision', 'torch._dynamo', 'captum'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    assert "LOADED set()" in done.stdout


def test_every_public_name_resolves():
    import cp_compress
    import pytest_cp

    for package in (cp_compress, pytest_cp):
        for name in package.__all__:
            assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pytest_cp.nothing
