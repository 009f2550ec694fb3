"""Tables in plain text: lines fit, figures stay whole, names break after dots and words at spaces."""

import pytest
from rich.cells import cell_len

from lowrank_exp.text.columns import names_by_reason, table_lines, wrapped_words

ROWS = [
    {"layer": "stem", "kind": "svd", "rank": "3", "MACs": "117,600", "reason": "dense is best for the whole"},
    {"layer": "encoder.stages.first.bottleneck.conv", "kind": "-", "rank": "dense", "MACs": "9", "reason": "chosen"},
]
TOTAL = {"layer": "all", "kind": "", "rank": "", "MACs": "117,609", "reason": ""}


def test_a_table_with_room_is_a_row_a_line():
    lines, left_out = table_lines(ROWS, 120, total=TOTAL, left=("kind",), words=("reason",), spare=("reason",))
    assert left_out == []
    rule = "─" * len(lines[2])
    assert lines == [
        "layer                                 kind   rank     MACs  reason",
        rule,
        "stem                                  svd       3  117,600  dense is best for the whole",
        "encoder.stages.first.bottleneck.conv  -     dense        9  chosen",
        rule,
        "all                                                117,609",
    ]


@pytest.mark.parametrize("width", [64, 50, 45])
def test_lines_fit_and_nothing_breaks_inside(width):
    lines, left_out = table_lines(ROWS, width, total=TOTAL, left=("kind",), words=("reason",), spare=("reason", "kind"))
    assert max(map(cell_len, lines)) <= width
    text = "\n".join(lines)
    assert all(word in text for word in ("encoder.", "stages.", "first.", "bottleneck.", "conv", "117,600", "117,609"))
    assert left_out == (["reason"] if width < 64 else [])
    last = next(line for line in lines if "conv" in line)
    assert last.split()[-1 if width < 64 else -2] == "9"  # figures stand beside the last part of the name


def test_too_narrow_for_what_may_not_go_is_longer_and_whole():
    lines, left_out = table_lines(ROWS, 10, spare=("kind", "reason"))
    assert left_out == ["kind", "reason"]
    assert "117,600" in "\n".join(lines)


def test_wide_characters_and_hostile_names_keep_columns_in_line():
    lines, _ = table_lines([{"class": "犬犬", "n": "1"}, {"class": "a\x1b[31m\n", "n": "22"}], 40)
    assert {cell_len(line) for line in lines} == {cell_len(lines[1])}
    assert "a\\x1b[31m\\n" in lines[3]


def test_reasons_are_said_once_and_fit():
    names = {f"layer{i}": "too thin to win" for i in range(20)} | {"fc": "a rule"}
    lines = names_by_reason(names, 50)
    assert lines[0].startswith("too thin to win: layer0, layer1")
    assert lines[-1] == "a rule: fc"
    assert max(map(len, lines)) <= 50
    assert wrapped_words("averyveryverylongword in", 10) == ["averyveryverylongword", "in"]
    assert wrapped_words("so stage1.block.conv", 10) == ["so", "stage1.", "block.conv"]
