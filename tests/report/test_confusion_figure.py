"""Panels, names and numbers of the confusion figure."""

import itertools

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix

from lowrank_exp.report.confusion_figure import confusion_figure
from lowrank_exp.report.figure import drawn


def counts(names: list[str], seed: int = 0, images: int = 400) -> tuple[pd.DataFrame, np.ndarray]:
    """Counts of random predictions, and the same in percent of the label's images."""
    draw = np.random.default_rng(seed)
    labels_N = np.concatenate([np.arange(len(names)), draw.integers(0, len(names), images)])
    predictions_N = np.where(draw.random(len(labels_N)) < 0.7, labels_N, draw.integers(0, len(names), len(labels_N)))
    percent_CC = 100 * confusion_matrix(labels_N, predictions_N, normalize="true")
    return pd.DataFrame(confusion_matrix(labels_N, predictions_N), names, names), percent_CC


def test_a_panel_per_phase_in_percent_of_the_rows() -> None:
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    dense, small = counts(names, 0), counts(names, 1)
    figure = confusion_figure({"dense": dense[0], "compressed": small[0]}, "svd\nresnet20 on cifar10")
    panels = figure.axes[:2]
    assert [axes.get_title() for axes in panels] == ["dense", "compressed"]
    assert figure.get_suptitle() == "svd\nresnet20 on cifar10"
    assert figure.axes[2].get_ylabel() == "% of the label's images"
    for axes, (_, percent_CC) in zip(panels, (dense, small), strict=True):
        (image,) = axes.images
        np.testing.assert_allclose(image.get_array(), percent_CC, rtol=0, atol=1e-12)
        assert [tick.get_text() for tick in axes.get_xticklabels()] == names
        assert [tick.get_text() for tick in axes.get_yticklabels()] == names
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("prediction", "label")
        written = {(round(text.get_position()[1]), round(text.get_position()[0])): text for text in axes.texts}
        for (row, column), percent in np.ndenumerate(percent_CC):
            assert written[row, column].get_text() == ("" if percent == 0 else f"{percent:.1f}")
            assert written[row, column].get_color() == ("white" if percent > 30 else "#222222")


def test_a_hundred_classes_have_names_and_no_numbers() -> None:
    names = [f"class {k}" for k in range(100)]
    figure = confusion_figure({"finetune": counts(names, images=2000)[0]})
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == names
    assert len(axes.texts) == 0
    figure.draw_without_rendering()
    boxes = [tick.get_window_extent() for tick in axes.get_yticklabels()]
    tops = sorted((box.y0, box.y1) for box in boxes)
    assert all(below[1] <= above[0] for below, above in itertools.pairwise(tops))  # no name covers another


def test_a_label_without_images_has_an_empty_row_and_long_or_mathematical_names_are_text() -> None:
    names = ["x_$1$", "n02123045 tabby, tabby cat"]
    figure = confusion_figure({"train": pd.DataFrame([[0, 0], [1, 3]], names, names)})
    axes = figure.axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), [[0, 0], [25, 75]])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["x_$1$", "n02123045 tabby, tabby …"]
    assert not any(tick.get_parse_math() for tick in (*axes.get_xticklabels(), *axes.get_yticklabels()))
    assert [text.get_text() for text in axes.texts] == ["", "", "25.0", "75.0"]


def test_more_classes_than_can_be_read_are_refused() -> None:
    names = [str(k) for k in range(121)]
    with pytest.raises(ValueError, match="of 121 classes cannot be read; at most 120"):
        confusion_figure({"train": pd.DataFrame(np.eye(121, dtype=int), names, names)})


def test_equal_counts_give_equal_files() -> None:
    frame, _ = counts(["a", "b", "c"])
    files = [drawn(confusion_figure({"train": frame}), "png") for _ in range(2)]
    assert files[0] == files[1]
    assert files[0].startswith(b"\x89PNG")
