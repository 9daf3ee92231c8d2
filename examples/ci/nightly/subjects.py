"""The released network, loaded from its weights file."""

from pathlib import Path

from safetensors.torch import load_file

from cp_compress.examples import DigitsCNN

WEIGHTS = Path(__file__).parent.parent / "digits.safetensors"


def reference() -> DigitsCNN:
    model = DigitsCNN()
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval()
