"""Gates on data with many answers an example."""


def test_a_segmentation_gate(project):
    project.write_test("""
from cp_compress import TaskDataset, Prune

def subjects():
    torch.manual_seed(0)
    model = torch.nn.Conv2d(1, 3, 3, padding=1).eval()
    images = torch.rand(20, 1, 6, 6)
    return model, TaskDataset((images, model(images).argmax(1).detach()), "dense")

def test_gate():
    model, data = subjects()
    assert_preserved_predictions(
        Prune(0.5).compress(model), model, data, min_agreement=0.999, max_mean_class_iou_drop=0.5, confidence=None
    )

def test_level_c():
    model, data = subjects()
    assert_attribution_iou(Prune(0.5).compress(model), model, data, min_mean_iou=0.1)
""")
    outcome = project.run()
    assert outcome.junit["failures"] == 2
    outcome.result.stdout.fnmatch_lines(["*agreement = 0.*required ≥ 0.999, n = 20*", "*of them changed*"])
    outcome.result.stdout.fnmatch_lines(["*this comparison needs one class per example*"])
