"""On a GPU the plugin compresses and observes there by default, and gives the verdicts of the CPU."""

import pytest

pytestmark = pytest.mark.gpu

GATE = """
@pytest.mark.compress_model("prune(density=0.4)", "quantize(int8)")
def test_gate(compressed_model, reference_model, dataset, cp_device):
    assert next(compressed_model.buffers(), next(compressed_model.parameters(), None)).device.type == cp_device.type
    assert next(reference_model.parameters()).device.type == "cpu"
    assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=0.1)
    assert_attribution_iou(compressed_model, reference_model, dataset, examples=40, min_mean_iou=0.1)
    assert_boundary_distance(compressed_model, reference_model, dataset, examples=12, max_median_change=10)
"""


def test_gpu_and_cpu_agree(gpu, project):
    project.write_test(GATE)
    here = project.run(f"--cp-device={gpu.type}")
    there = project.run("--cp-device=cpu")
    assert here.result.ret == there.result.ret == 0
    values = [
        {(check["test"], check["assertion"]): check["metrics"] for check in outcome.report["checks"]}
        for outcome in (here, there)
    ]
    for key, metrics in values[0].items():
        for name, value in metrics.items():
            assert value == pytest.approx(values[1][key][name], abs=0.02), (key, name)


def test_cuda_is_the_default(cuda, project):
    project.write_test("def test_show(cp_device):\n    assert cp_device.type == 'cuda'\n")
    assert project.pytester.runpytest_inprocess().ret == 0
