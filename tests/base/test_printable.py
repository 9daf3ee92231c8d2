"""What a terminal or a build server would obey is escaped where it is printed, and nothing else is changed."""

import json
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_compress.base.error_reasons import printable_line, printable_lines
from cp_compress.base.showing.tables import table
from cp_compress.cli.output import _print_json

OBEYED = re.compile(r"^\s*::|##\w*\[", re.MULTILINE)
texts = st.text(st.characters() | st.sampled_from(":#[\n\r\t\x1b\x9b\u202e\u2028a "))


@given(texts)
def test_nothing_is_left_to_obey(text):
    line, lines = printable_line(text), printable_lines(text)
    for shown in (line, lines.replace("\n", "").replace("\t", "")):
        assert all(unicodedata.category(one) not in ("Cc", "Zl", "Zp", "Cs") for one in shown)
        assert not re.search("[\u202a-\u202e\u2066-\u2069\u200e\u200f]", shown)
    assert not OBEYED.search(line)
    assert not OBEYED.search(lines)
    assert lines.count("\n") == text.count("\n")
    assert (printable_line(line), printable_lines(lines)) == (line, lines)


@pytest.mark.parametrize("text", ["größer ≥ 0.9", "犬 猫\u3000鳥", "می\u200cخواهم", "👩\u200d🔬", "a::b", "# [x]", ""])
def test_what_can_be_printed_stays(text):
    assert printable_line(text) == printable_lines(text) == text


def test_cells_are_lines_of_their_own():
    assert table([("class", "n"), ("a\n::error", "1"), ("b\x1b[2J", "2")]).count("\n") == 2


def test_printed_json_holds_the_same_values(capsys):
    values = ["\x1b[1A", "\x9b2J", "##[error]\n::x", "\u202e", "😀\U000e0041"]
    _print_json(json.dumps(values, indent=2, ensure_ascii=False))
    out = capsys.readouterr().out
    assert json.loads(out) == values
    assert not re.search("[\x1b\x9b\u202e]|##\\[", out)
