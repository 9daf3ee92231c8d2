"""What the table of a level may say: every argument as its assertion takes it, and noise where there is one."""

import inspect
from types import SimpleNamespace

import pytest
import torch
from jsonschema import Draft202012Validator

from pytest_cp.specification import SpecificationError, levels, read_specification
from pytest_cp.specification import gate_subjects as subjects

GATE = """\
schema_version = 1
[reference]
model = "subjects:make_model"
[data]
examples = "subjects:make_data"
[noise]
references = ["quantize(bfloat16)"]
[[candidate]]
scheme = "prune(density=0.4)"
codec = "jpeg(quality=90)"
"""


def read(folder, table):
    path = folder / "gate.toml"
    path.write_text(GATE + table)
    return read_specification(path)


@pytest.mark.parametrize("level", levels.levels())
def test_what_an_assertion_does_by_itself_can_be_written(level):
    schema = levels.level_schema(level)["properties"]
    for name, parameter in inspect.signature(levels.assertion_of(level)).parameters.items():
        default = parameter.default
        if name in schema and default is not None and default is not parameter.empty:
            written = list(default) if isinstance(default, tuple) else default
            assert Draft202012Validator(schema[name]).is_valid(written), (level, name, default)


def test_lists_are_read_as_lists(tmp_path):
    table = '[robustness]\nmin_corrupted_agreement = 0.5\nseverities = {}\ncorruptions = "all"\nexamples = [0, 1]\n'
    (robustness,) = read(tmp_path, table.format("[1, 3]")).requirements
    assert robustness.arguments["severities"] == [1, 3]
    for wrong in ("3", '["hard"]', "[1.5]"):
        with pytest.raises(SpecificationError, match=r"gate.toml:\d+: robustness.severities"):
            read(tmp_path, table.format(wrong))


@pytest.mark.parametrize("table", ["[footprint]\nmin_compression", "[reconstruction]\nmax_rmse"])
def test_levels_without_noise_say_so_with_their_line(tmp_path, table):
    assert read(tmp_path, f"{table} = 1.0\n").requirements
    with pytest.raises(SpecificationError, match=r"gate.toml:12: .* = 'noise'.*this level has no noise"):
        read(tmp_path, f'{table} = "noise"\n')


def test_noise_of_one_large_slice_is_not_that_of_another(monkeypatch):
    gate = object.__new__(subjects.GateSubjects)
    gate._made, gate._config = {}, None
    monkeypatch.setattr(subjects, "session_state", lambda config: SimpleNamespace(own_notes=[]))
    monkeypatch.setattr(gate, "_noise", lambda level, name, options: [float(options["slices"]["x"].float().mean())])
    masks = [torch.zeros(2400, dtype=torch.bool) for _ in range(2)]
    masks[0][1000:1600], masks[1][1000:1300] = True, True
    assert str(masks[0]) == str(masks[1])  # their texts leave out where they differ
    bounds = [
        gate._noise_bound("predictions", "min_slice_agreement", "noise", {"slices": {"x": mask}}) for mask in masks
    ]
    assert bounds == pytest.approx([0.25, 0.125])


def test_two_specifications_are_refused(project):
    for name in ("bad", "good"):
        (project.path / f"{name}.toml").write_text(GATE)
    outcome = project.run("--pyargs", "pytest_cp.gate", "--cp-spec=bad.toml", "--cp-spec=good.toml")
    assert outcome.result.ret == pytest.ExitCode.USAGE_ERROR
    outcome.result.stderr.fnmatch_lines(["*--cp-spec=bad.toml, good.toml: *one specification*"])
