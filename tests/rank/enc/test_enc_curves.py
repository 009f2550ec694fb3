import numpy as np
import pytest
from scipy.interpolate import pchip_interpolate

from lowrank_exp.rank.enc.curves import energy_curve, measured_curve, network_quality
from support.enc_cases import PUBLISHED, vgg16
from support.profiles import by_hand, changed, layer, network


@pytest.mark.parametrize(
    ("name", "macs", "C", "W"),
    [
        ("table 1 inf", 3_867_265_024, 0.25199, 0.36146),
        ("table 1 model", 3_861_846_016, 0.25164, 0.37250),
        ("table 1 map", 3_871_479_808, 0.25227, 0.30751),
        ("table 2", 3_094_052_864, 0.20161, 0.28865),
        ("table 3", 3_736_606_720, 0.24348, 0.32522),
        ("in the code", None, 0.25133, 0.33042),
    ],
)
def test_cost_of_the_published_rank_sets(name, macs, C, W):
    found = network_quality(vgg16(), dict(zip(vgg16(), PUBLISHED[name], strict=True)))
    np.testing.assert_allclose([found.C, found.W], [C, W], atol=5.5e-6, rtol=0)
    if macs is not None:
        assert round(found.C * 15_346_680_832, 3) == macs


@pytest.mark.parametrize(
    ("name", "A_p", "A_m", "A_c", "digits"),
    [
        ("table 1 inf", 0.003679, 0.95712, 0.95804, 6),
        ("table 1 model", 0.003667, 0.95720, 0.95812, 6),
        ("table 1 map", 0.002259, 0.95879, 0.95936, 6),
        ("table 2", 0.000804, 0.90614, 0.90630, 6),
        ("table 3", 0.002671, 0.95687, 0.95752, 6),
        ("uniform", 0.00128, 0.87892, 0.87924, 5),
    ],
)
def test_quality_of_the_published_rank_sets(name, A_p, A_m, A_c, digits):
    """By an independent computation from the authors' files."""
    found = network_quality(vgg16(), dict(zip(vgg16(), PUBLISHED[name], strict=True)))
    assert found.A_p == pytest.approx(A_p, abs=0.5 * 10**-digits)
    assert found.A_m == pytest.approx(A_m, abs=5e-6)
    assert found.A_c == pytest.approx(A_c, abs=5.5e-6)
    assert found.A_c == pytest.approx(found.A_m + found.A_p * found.C, rel=1e-14)


def test_energy_counts_plain_singular_values_without_the_first():
    one = layer("a", 60, 60, 10, 10, [5.0, 3.0, 2.0, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(energy_curve(one), np.cumsum([0, 3, 2, 1, 1, 1]) / 8, rtol=1e-14)


def test_energy_ends_at_r_max():
    one = layer("a", 40, 40, 10, 10, [5.0, 3.0, 2.0, 1.0, 1.0, 1.0])
    assert one.r_max == 4
    np.testing.assert_allclose(energy_curve(one), [0, 3 / 6, 5 / 6, 1], rtol=1e-14)


def test_groups_count_together():
    one = layer("a", 30, 30, 10, 10, [1.0, 1.0, 1.0])
    one = changed(one, singular_values=np.array([[5.0, 3.0, 0.0], [4.0, 1.0, 1.0]]))
    np.testing.assert_allclose(energy_curve(one), [0, 4 / 5, 1], rtol=1e-14)


@pytest.mark.parametrize("values", [[3.0], [3.0, 0.0, 0.0], [0.0, 0.0]])
def test_what_rank_one_keeps_altogether_has_quality_one(values):
    one = layer("a", 10 * len(values), 10 * len(values), 10, 10, values)
    assert energy_curve(one).tolist() == [1.0] * len(values)


def test_a_decomposition_without_singular_values_takes_its_energy():
    ladder = ((1, 1), (2, 2), (3, 3), (4, 4))
    costs = np.array([10, 20, 30, 40])
    kept = np.array([0.5, 0.7, 0.9, 1.0])
    one = by_hand("a", "conv", 40, 40, "tucker2", costs, costs, ranks=ladder, kept=kept)
    np.testing.assert_allclose(energy_curve(one), [0, 0.4, 0.8, 1], rtol=1e-14)


def test_measured_quality_passes_through_the_samples_and_may_exceed_one():
    layers = vgg16()
    for one in layers.values():
        y_m = measured_curve(one)
        np.testing.assert_allclose(y_m[np.array(one.sampled_ranks) - 1], one.sampled_accuracy, rtol=1e-12)
        points = np.append(0, one.sampled_ranks), np.append(0, one.sampled_accuracy)
        np.testing.assert_allclose(y_m, pchip_interpolate(*points, np.arange(1, one.r_max + 1)), rtol=1e-10)
    assert measured_curve(layers["conv1_2"])[35] == pytest.approx(8984 / 8980, rel=1e-9)
    assert measured_curve(layers["conv4_2"])[301] == pytest.approx(8988 / 8980, rel=1e-9)


def test_dense_layers_and_those_that_cannot_be_decomposed_keep_all():
    layers = network(
        layer("a", 40, 50, 10, 10, [5.0, 3.0, 2.0, 1.0]),
        layer("b", 60, 50, 15, 10, [4.0, 1.0, 1.0, 1.0]),
        by_hand("c", "conv", 100, 100, refusal="no"),
    )
    found = network_quality(layers, {"a": 2, "b": None, "c": None})
    assert found.A_p == pytest.approx(0.5)
    assert (found.C, found.W) == (180 / 200, 170 / 200)
    assert (found.A_m, found.A_c) == (None, None)


def test_a_rank_at_which_nothing_is_right_has_quality_0():
    one = layer("a", 40, 50, 10, 10, [5.0, 3.0, 2.0, 1.0])
    y_m = measured_curve(changed(one, sampled_ranks=(1, 2, 4), sampled_accuracy=np.array([0.0, 0.4, 0.8])))
    assert y_m[[0, 1, 3]].tolist() == pytest.approx([0.0, 0.5, 1.0])


def test_ranks_of_other_layers_are_refused():
    layers = network(layer("a", 40, 50, 10, 10, [5.0, 3.0, 2.0, 1.0]))
    with pytest.raises(ValueError, match=r"a rank is needed for every layer and no other, see \['b'\]"):
        network_quality(layers, {"a": 1, "b": 2})
    with pytest.raises(ValueError, match="a: rank 5 is not one of 1 to 4"):
        network_quality(layers, {"a": 5})


@pytest.mark.parametrize(
    ("ranks", "accuracy", "message"),
    [
        ((), [], "a has no measured accuracy: measure it by lowrank_exp.with_accuracy"),
        ((2, 1, 4), [0.1, 0.5, 1], "a: sampled_ranks must rise, with one accuracy for each, the last above 0"),
        ((1, 4), [0.1, 0.5, 1], "a: sampled_ranks must rise, with one accuracy for each, the last above 0"),
        ((1, 4), [0.5, 0.0], "a: sampled_ranks must rise, with one accuracy for each, the last above 0"),
        ((1, 4), [float("nan"), 1], "a: sampled_ranks must rise, with one accuracy for each, the last above 0"),
        ((1, 5), [0.5, 1], r"a: its sampled ranks \[5\] are none of its 4 ranks"),
        ((1, 3), [0.5, 1], "a: the last of its sampled ranks must be at least 4, where curves end"),
    ],
)
def test_samples_that_make_no_curve(ranks, accuracy, message):
    one = layer("a", 40, 50, 10, 10, [5.0, 3.0, 2.0, 1.0])
    with pytest.raises(ValueError, match=message):
        measured_curve(changed(one, sampled_ranks=ranks, sampled_accuracy=np.array(accuracy)))
