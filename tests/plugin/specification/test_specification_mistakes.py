"""Every mistake in a specification is told with its line, before anything runs."""

import textwrap

import pytest
from specification_texts import SPECIFICATION, added

from pytest_cp.specification import SpecificationError, read_specification
from pytest_cp.specification.lines import find_line


@pytest.mark.parametrize(
    ("old", "new", "line", "told"),
    [
        ("min_agreement", "min_agreemnt", 13, "did you mean min_agreement"),
        ("0.5", "1.5", 13, "must be a number in [0.0, 1.0]"),
        ("0.5", '"often"', 13, "must be a number"),
        ("0.5", '"noise"', 12, "no table [noise]; write one with references = ["),
        ("[predictions]", "[prediction]", 12, "did you mean predictions"),
        ("min_agreement = 0.5", "top_k = 3", 12, "has no requirement"),
        ("[predictions]\nmin_agreement = 0.5", "", 1, "no requirements"),
        ("min_agreement = 0.5", "min_agreement = 0.5\nconfidence = 1.0", 14, "confidence"),
        ("min_agreement = 0.5", "min_agreement = 0.5\ncandidates = ['other']", 14, "unknown candidate 'other'"),
        ("scheme", "schema", 10, "unknown key schema"),
        ("density=0.4", "density=4", 10, "density"),
        ("prune(density=0.4)", "prone(density=0.4)", 10, "prone"),
        ('"prune(density=0.4)"', '"prune(density=0.4)"\ncodec = "jpeg(quality=0)"', 11, "quality"),
        ('scheme = "prune(density=0.4)"', "", 9, "candidate"),
        ('scheme = "prune(density=0.4)"', 'name = "x"', 9, "needs a scheme"),
        ('"prune(density=0.4)"', '"prune(density=0.4)"\nmodel = "a:b"', 9, "not scheme and model"),
        ('"prune(density=0.4)"', '"prune(density=0.4)"\nkey = "a"', 11, "applies to a file"),
        ("[[candidate]]", '[[candidate]]\nscheme = "prune(density=0.4)"\n\n[[candidate]]', 12, "two candidates"),
        ("[[candidate]]", "[candidate]", 9, "write [[candidate]], in two pairs of brackets"),
        ("[reference]", "[[reference]]", 3, "write [reference], in one pair of brackets"),
        ("0.5", "99", 13, "99 % would be 0.99"),
        ("0.5", '"0.97"', 13, "write 0.97 without quotes"),
        ("0.5", "97%", 13, "write 0.97 for 97%"),
        ("0.5", "0,97", 13, "write the number with a point: 0.97"),
        ("min_agreement = 0.5", "min_agreement >= 0.5", 13, "a value is given by =, as in min_agreement = 0.5"),
        ('"prune(density=0.4)"', "quantize(int8)", 10, 'a text stands in quotes: scheme = "quantize(int8)"'),
        ("min_agreement", "max_accuracy_loss", 13, "did you mean max_accuracy_drop"),
        ("min_agreement = 0.5", "agreement = 0.5", 13, "did you mean min_agreement?"),
        ("prune(density=0.4)", "jpeg(quality=50)", 10, "it is a codec: write codec = "),
        ('"subjects:make_model"', '"subjects.make_model"', 4, 'did you mean "subjects:make_model"?'),
        ('model = "subjects:make_model"', 'model = "net.onnx"', 4, 'write file = "net.onnx"'),
        (
            "[predictions]",
            "[execution]\nseed = '0'\n[predictions]",
            13,
            "must be a whole number; write 0 without quotes",
        ),
        (
            "[predictions]",
            "[generation]\nmax_new_tokens = 0\nmin_exact_generations = 1\n[predictions]",
            13,
            "at least 1",
        ),
        (
            "[predictions]",
            "[detections]\nscore_threshold = 40\nmin_matched_f1 = 1\n[predictions]",
            13,
            "40 % would be 0.4",
        ),
        (
            "[predictions]",
            "[attributions]\nmethod = 'grad_cam'\nmin_mean_iou = 1\n[predictions]",
            13,
            "name the layer to look at",
        ),
        ("[predictions]", "[outputs]\nmin_sqnr = '30 dB'\n[predictions]", 13, "write 30 for 30 dB"),
        ("[predictions]", "[execution]\ndevice = 'gpu'\n[predictions]", 13, "torch calls it cuda"),
        (
            "[predictions]",
            "[execution]\norigin = 'of'\n[predictions]",
            13,
            'must be "auto" or "off"; did you mean off?',
        ),
        ("schema_version = 1", "schema_version = 9", 1, "must be 1"),
        ("schema_version = 1", "", 1, "the file needs a line schema_version = 1"),
        ('model = "subjects:make_model"', "", 3, "exactly one of model, file, command"),
        ('model = "subjects:make_model"', 'model = "a:b"\nfile = "c"', 3, "exactly one of"),
        (
            "[predictions]",
            "[footprint]\nmin_compression = 2\n[[candidate]]\ncodec = 'zfp(rate=8)'\n[predictions]",
            12,
            "compresses only the data",
        ),
        ("[predictions]", "[reconstruction]\nmin_psnr = 2\n[predictions]", 12, "has no codec"),
        (
            "[predictions]",
            "[[candidate]]\nscheme = 'quantize(int8)'\n[predictions]\ncandidates = ['quantize(int8)']",
            9,
            "candidate prune(density=0.4) is never compared",
        ),
        ("[predictions]", "[noise]\nreferences = ['nonsense(']\n[predictions]", 13, "nonsense("),
        ("[predictions]", "[noise]\nreferences = ['absent.cp']\n[predictions]", 13, "not a file"),
        (
            "[predictions]\nmin_agreement = 0.5",
            "[noise]\nreferences = ['quantize(float16)']\n[predictions]\nmin_agreement = 'noise - 0.51'",
            15,
            "more than half of all values would meet it",
        ),
        ("min_agreement = 0.5", "min_agreement = 0.5\nconfidence = 95", 14, "95 % would be 0.95"),
        ("[predictions]", "[attributions]\nmethod = 'gradcam'\nmin_mean_iou = 0.5\n[predictions]", 13, "grad_cam?"),
        (
            "[predictions]",
            "[pointing]\nmethod = 'grad_cam(layr=3)'\nmax_pointing_mass_drop = 0.5\n[predictions]",
            13,
            "mean layer?",
        ),
        ("[predictions]", "[robustness]\ncorruptions = 'fogg'\n[predictions]", 13, "did you mean fog?"),
        ("[predictions]", "[embeddings]\npool = 'man'\n[predictions]", 13, 'must be "mean" or "flatten"'),
        ("[predictions]", "[boundaries]\ntolerance = 10\n[predictions]", 13, "must be above 0 and below 1"),
        ("0.5", "True", 13, "write true"),
        ("0.5", ".5", 13, "write 0.5"),
        ("0.5", "None", 13, "leave the line out"),
        ("0.5", "0.5,", 13, "leave out the , at the end"),
        ("0.5", "0.5  // half", 13, "a comment begins with #"),
        ('"prune(density=0.4)"', "“prune(density=0.4)”", 10, "quotation marks are straight"),
        ('"prune(density=0.4)"', '"prune(density=0.4)', 10, "a quotation mark is missing"),
        ("min_agreement = 0.5", "min_agreement == 0.5", 13, "a value is given by =, as in min_agreement"),
        ("min_agreement = 0.5", "min_agreement = 0.5\nmin_agreement = 0.6", 14, "min_agreement stands twice: keep one"),
        ("[reference]", "[data]\n[reference]", 7, "the table [data] stands twice"),
        (
            "min_agreement = 0.5",
            "min_agreement = 0.5\n[[predictions]]\nmin_agreement = 0.6",
            14,
            "[predictions] stands above as one table: write [[predictions]] there too",
        ),
        ("[predictions]", "[predictions", 12, "a bracket is missing: [predictions]"),
        ("[predictions]", "[predictions]\nmin_agreement = 0.5", 14, "not valid TOML"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path, old, new, line, told):
    path = tmp_path / "gate.toml"
    path.write_text(SPECIFICATION.replace(old, new, 1))
    with pytest.raises(SpecificationError) as caught:
        read_specification(path)
    assert f"gate.toml:{line}: " in str(caught.value)
    assert told in str(caught.value)


def told_of(path, text):
    path.write_text(text)
    with pytest.raises(SpecificationError) as caught:
        read_specification(path)
    return [line.partition("gate.toml:")[2] for line in str(caught.value).splitlines()]


def test_every_unknown_key_is_told_with_its_own_line(tmp_path):
    text = added('"bogus key" = 1\nmin_agreemnt = 0.5\n[predictions.slices."a [b]"]\ncolum = "x"\nequals = 1\n')
    told = told_of(tmp_path / "gate.toml", text)
    assert [line.partition(": ")[0] for line in told] == ["14", "15", "16", "17"]
    assert "unknown key bogus key" in told[0]
    assert "did you mean min_agreement?" in told[1]
    assert "did you mean column?" in told[3]


def test_every_mistake_in_a_waiver_is_told_with_its_line(tmp_path):
    text = """
    [[waiver]]
    test = "gate.toml*"
    metric = "agreemnt"
    at_worst = "much"
    ownr = "Ada"
    reason = "known"
    expires = 2999-01-01
    """
    told = told_of(tmp_path / "gate.toml", added(text))
    assert [line.partition(": ")[0] for line in told] == ["15", "17", "18", "19"]
    assert "waiver 1: missing owner" in told[0]
    assert told[1].endswith("metric = 'agreemnt': unknown metric; did you mean agreement?")
    assert "at_worst = 'much': must be a number" in told[2]
    assert told[3].endswith("unknown key ownr; did you mean owner?")


def test_lines_of_nested_tables():
    text = textwrap.dedent("""\
        top = 1
        [a]
        "quoted key" = 1
        b.c = 2
        [[list]]
        x = 1
        [list.inner]
        y = 2
        [[list]]
        x = 2
        """)
    places = [
        ["top"],
        ["a", "quoted key"],
        ["a", "b", "c"],
        ["list", 0, "x"],
        ["list", 0, "inner", "y"],
        ["list", 1, "x"],
    ]
    assert [find_line(text, place) for place in places] == [1, 3, 4, 6, 8, 10]
    assert find_line(text, ["list", 1, "missing"]) == 9
    assert find_line(text, []) == 1


def test_a_misspelt_candidate_is_told_alone(tmp_path):
    path = tmp_path / "gate.toml"
    path.write_text(SPECIFICATION + 'candidates = ["prone(density=0.4)"]\n')
    with pytest.raises(SpecificationError, match=r"did you mean prune\(density=0.4\)") as told:
        read_specification(path)
    assert "never compared" not in str(told.value)
