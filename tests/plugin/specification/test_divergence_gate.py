"""`assert_no_divergence`: fails with an input, saves it, and replays it."""

GATE = """
import copy, subjects

def damaged(model):
    broken = copy.deepcopy(model)
    broken.get_submodule("2").weight.data.mul_(torch.tensor([[1.0], [1.02], [1.0]]))
    return broken

def test_gate(reference_model, dataset):
    assert_no_divergence({candidate}, reference_model, dataset, epsilon=1.0, bounds=None, max_divergence_rate={bound})

def test_replay(reference_model, dataset):
    import pathlib
    (path,) = pathlib.Path("divergences").glob("*.npz")
    assert_no_divergence({candidate}, reference_model, dataset, replay=path, max_divergence_rate=0.0)
"""


def test_a_small_change_is_found_saved_and_replayed(project):
    project.write_test(GATE.format(candidate="damaged(reference_model)", bound=0.0))
    outcome = project.run()
    assert outcome.junit["failures"] == 2
    outcome.result.stdout.fnmatch_lines(
        ["*DivergenceFoundError: divergence_rate = *, required ≤ 0, n = 64*", "*moved by L∞*→*", "*replay=*"]
    )
    assert len(list((project.path / "divergences").glob("divergence-*.npz"))) == 1


def test_a_mended_candidate_passes_the_replay(project):
    project.write_test(GATE.format(candidate="damaged(reference_model)", bound=0.0))
    project.run("-k", "not test_replay")
    mended = "copy.deepcopy(reference_model).double().float().to(memory_format=torch.contiguous_format)"
    project.write_test(GATE.format(candidate=f"(lambda x, m={mended}: m(x) * 1.0001)", bound=0.0))
    outcome = project.run("-k", "test_replay")
    assert outcome.result.ret == 0
    assert outcome.report["checks"][0]["metrics"]["divergence_rate"] == 0


def test_processes_save_under_the_name_of_the_content(project):
    project.write_test(
        GATE.format(candidate="damaged(reference_model)", bound=0.0)
        + """
def test_again(reference_model, dataset):
    assert_no_divergence(
        damaged(reference_model), reference_model, dataset, epsilon=1.0, bounds=None, max_divergence_rate=0.0
    )
"""
    )
    outcome = project.run("-n", "2", "-k", "not test_replay", subprocess=True)
    assert outcome.junit["failures"] == 2
    assert len(list((project.path / "divergences").glob("*"))) == 1


def test_an_allowed_rate_passes_and_saves_nothing(project):
    project.write_test(GATE.format(candidate="damaged(reference_model)", bound=1.0))
    outcome = project.run("-k", "not test_replay")
    assert outcome.result.ret == 0
    assert not (project.path / "divergences").exists()


def test_a_distance_is_needed(project):
    project.write_test(
        """
def test_gate(reference_model, dataset):
    other = torch.nn.Linear(8, 3)
    assert_no_divergence(other, reference_model, dataset, max_divergence_rate=0.0)
"""
    )
    outcome = project.run()
    assert outcome.failed_everywhere
    outcome.result.stdout.fnmatch_lines(["*epsilon*how far from the examples*"])


def test_a_gate_that_asks_nothing_fails(project):
    project.write_test(
        """
import copy

def test_gate(reference_model, dataset):
    other = copy.deepcopy(reference_model)
    other.get_submodule("2").weight.data.mul_(1.0001)
    classes = reference_model(dataset[0]).argmax(dim=1)
    alike = classes == classes[0]
    data = dataset[0][alike], dataset[1][alike]
    assert_no_divergence(other, reference_model, data, guide="examples", bounds=None, max_divergence_rate=0.0)
"""
    )
    outcome = project.run()
    assert outcome.failed_everywhere
    outcome.result.stdout.fnmatch_lines(["*NothingComparedError*no input could be tried around any of the*examples*"])


def test_a_replay_needs_no_more_of_the_data_than_its_shape(project):
    project.write_test(GATE.format(candidate="damaged(reference_model)", bound=0.0))
    project.run("-k", "not test_replay")
    shorter = "(dataset[0][:3], dataset[1][:3]), replay"
    project.write_test(GATE.format(candidate="damaged(reference_model)", bound=0.0).replace("dataset, replay", shorter))
    outcome = project.run("-k", "test_replay")
    outcome.result.stdout.fnmatch_lines(
        ["*DivergenceFoundError: divergence_rate = 1, required ≤ 0*", "*#* (label *): * → *"]
    )
    assert "nan" not in str(outcome.report["checks"][0]["examples"])


def test_a_candidate_may_give_classes_only(project):
    classes = "(lambda x, m=damaged(reference_model): m(x).argmax(dim=1))"
    project.write_test(GATE.format(candidate=classes, bound=0.0))
    outcome = project.run()
    assert outcome.junit["failures"] == 2
    outcome.result.stdout.fnmatch_lines(["*DivergenceFoundError: divergence_rate = *, required ≤ 0, n = 64*"])
    check = outcome.report["checks"][0]
    assert check["details"]["precisions"] == ["own precision", "float64"]


def test_a_replay_refuses_options_of_a_search(project):
    project.write_test(
        """
@pytest.mark.parametrize("option", [{"norm": "bogus"}, {"epsilon": 0.1}, {"queries": -4}, {"save_to": "other.npz"}])
def test_gate(reference_model, dataset, option):
    other = torch.nn.Linear(8, 3)
    with pytest.raises(ValueError, match=f"{next(iter(option))}=.*leave this option out"):
        assert_no_divergence(other, reference_model, dataset, max_divergence_rate=0.0, replay="found.npz", **option)
    pytest.fail("as was expected")
"""
    )
    outcome = project.run()
    assert outcome.junit["failures"] == 4
    outcome.result.stdout.fnmatch_lines(["*as was expected*"])
