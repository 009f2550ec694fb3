"""The file of which class was taken for which."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lowrank_exp.files import confusion

COUNTS_CC = np.array([[5, 0, 2], [0, 0, 0], [1, 3, 4]])
NAMES = ("große Katze", 'dog, "small"', "0")


def test_read_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "job" / "confusion" / "train.csv"
    confusion.write(path, NAMES, COUNTS_CC)
    names, counts_CC = confusion.read(path)
    assert names == NAMES
    np.testing.assert_array_equal(counts_CC, COUNTS_CC)
    assert [file.name for file in path.parent.iterdir()] == ["train.csv"]
    assert confusion.path_in(tmp_path / "job", "train") == path


def test_classes_are_no_formulas_and_read_back_as_they_are(tmp_path: Path) -> None:
    names = ("=1+1", "'=1+1", "-x", "@a", "+b", "\tc", "'quoted'", "-0.5", "plain")
    confusion.write(tmp_path / "counts.csv", names, np.eye(9, dtype=int))
    assert pd.read_csv(tmp_path / "counts.csv")["label"].tolist() == [
        *("'=1+1", "''=1+1", "'-x", "'@a", "'+b", "'\tc", "'quoted'", "-0.5", "plain"),
    ]
    assert confusion.read(tmp_path / "counts.csv")[0] == names


def test_the_file_of_a_phase_stays_in_its_folder(tmp_path: Path) -> None:
    for phase in ("../../etc/passwd", "a/b", "x" * 1000, "\x1b[31m"):
        assert confusion.path_in(tmp_path, phase).parent == tmp_path / "confusion"
        confusion.write(confusion.path_in(tmp_path, phase), ["a"], np.array([[1]]))


def test_pandas_reads_the_same(tmp_path: Path) -> None:
    confusion.write(tmp_path / "counts.csv", NAMES, COUNTS_CC)
    lines = pd.read_csv(tmp_path / "counts.csv")
    square = lines.pivot_table(index="label", columns="prediction", values="images", fill_value=0)
    np.testing.assert_array_equal(square.loc[list(NAMES), list(NAMES)].to_numpy(), COUNTS_CC)
    assert lines["images"].tolist() == [5, 2, 0, 1, 3, 4]


def test_a_network_with_more_outputs_than_the_data_have_classes(tmp_path: Path) -> None:
    counts_CC = np.zeros((9, 9), dtype=int)
    counts_CC[:2, [0, 1, 7]] = [[3, 0, 1], [0, 2, 0]]
    confusion.write(tmp_path / "counts.csv", ["cat", "dog"], counts_CC)
    names, read_CC = confusion.read(tmp_path / "counts.csv")
    assert names == ("cat", "dog", "output 7")
    assert read_CC.tolist() == [[3, 0, 1], [0, 2, 0], [0, 0, 0]]


def test_classes_of_one_name_stay_apart(tmp_path: Path) -> None:
    confusion.write(tmp_path / "counts.csv", ["crane", "crane"], np.array([[1, 2], [3, 4]]))
    assert confusion.read(tmp_path / "counts.csv")[0] == ("crane (0)", "crane (1)")
    assert confusion.read(tmp_path / "counts.csv")[1].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("classes", "counts_CC"),
    [
        (["a", "b"], [[1, 2, 3], [4, 5, 6]]),
        (["a", "b", "c"], [[1, 2], [3, 4]]),
        (["a"], [[1, 2], [3, 4]]),
    ],
    ids=["not square", "too few", "images beyond the classes"],
)
def test_counts_that_do_not_fit(tmp_path: Path, classes: list, counts_CC: list) -> None:
    with pytest.raises(ValueError, match=rf"counts of shape \(2, \d\) for {len(classes)} classes"):
        confusion.write(tmp_path / "counts.csv", classes, np.array(counts_CC))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "label,prediction\na,a\n",
        "label,prediction,images\na,a,x\n",
        "label,prediction,images\na,a\n",
        "label,prediction,images\na,a,1\na,a,1\n",
        "label,prediction,images\na,a,-1\n",
        "prediction,label,images\na,a,1\n",
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "counts.csv").write_text(text)
    with pytest.raises(ValueError, match=r"counts\.csv is damaged"):
        confusion.read(tmp_path / "counts.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,prediction,images\na,a,1e308\n", "is damaged"),
        (f"label,prediction,images\na,a,{10**20}\n", "no count below 0 or above"),
        (f"label,prediction,images\n{'a' * 200_000},a,1\n", "is damaged"),
        (
            "label,prediction,images\n" + "".join(f"{n},{n},1\n" for n in range(9000)),
            "names 9,000 classes; at most 8,192",
        ),
    ],
    ids=["float", "large", "long", "many"],
)
def test_hostile_counts_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "counts.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        confusion.read(tmp_path / "counts.csv")
