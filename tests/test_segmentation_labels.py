"""What the values of a mask mean, and what is said about values and options that mean nothing."""

import numpy as np
import pytest

from vt_timm.segmentation.labels import IGNORE, LabelError, Labels

AB = ["a", "b"]


@pytest.mark.parametrize(
    ("options", "values", "expected"),
    [
        ({}, [0, 1, 255], [0, 1, IGNORE]),
        (dict(values={255: 1}), [0, 255], [0, 1]),  # black and white
        (dict(values={128: 0, 255: 1}, ignore=0), [0, 128, 255], [IGNORE, 0, 1]),
        (dict(reduce_zero=True), [0, 1, 2, 255], [IGNORE, 0, 1, IGNORE]),
        (dict(reduce_zero=True, groups={"y": ["b"], "x": ["a"]}), [0, 1, 2], [IGNORE, 1, 0]),
        (dict(groups={"y": ["b"], "x": ["a"]}), [0, 1], [1, 0]),
        (dict(ignore=7), [0, 1, 7], [0, 1, IGNORE]),
        (dict(ignore=0, values={2: 0}), [0, 1, 2], [IGNORE, 1, 0]),
    ],
)
def test_values_become_labels(options, values, expected):
    assert Labels(AB, **options)(np.array([values])).tolist() == [expected]


@pytest.mark.parametrize(("rest", "expected"), [(None, [0, 0, IGNORE, 1]), ("y", [0, 0, 1, 1]), ("x", [0, 0, 0, 1])])
def test_classes_merge_into_groups(rest, expected):
    labels = Labels(["a", "b", "c", "d"], groups={"x": ["a", "b"], "y": ["d"]}, rest=rest)
    assert labels.classes == ["x", "y"]
    assert labels(np.array([[0, 1, 2, 3]])).tolist() == [expected]


def test_more_classes_than_eight_bits_hold():
    """300 classes in masks of 16 bits, where 255 is a class like any other."""
    labels = Labels([f"class {i}" for i in range(300)], ignore=65535)
    mask = np.array([[0, 254, 255, 256, 299, 65535]], dtype=np.uint16)
    assert labels(mask).tolist() == [[0, 254, 255, 256, 299, IGNORE]]
    assert Labels(labels.names)(mask[:, :5]).tolist() == [[0, 254, IGNORE, 256, 299]]  # 255, if nobody says otherwise


@pytest.mark.parametrize("channels", [3, 4])
def test_masks_in_colour(channels):
    mask = np.zeros((1, 3, channels), dtype=np.uint8)
    mask[0, :, :3] = [[0, 0, 0], [128, 0, 64], [224, 224, 192]]
    labels = Labels(AB, colours=[[0, 0, 0], [128, 0, 64]], ignore_colour=[224, 224, 192])
    assert labels(mask).tolist() == [[0, 1, IGNORE]]
    merged = Labels(AB, colours=labels.colours, ignore_colour=labels.ignore_colour, groups={"y": ["b"], "x": ["a"]})
    assert merged(mask).tolist() == [[1, 0, IGNORE]]
    with pytest.raises(LabelError, match=r"the colour \[224, 224, 192\] is none of the 2 .* say ignore_colour="):
        Labels(AB, colours=labels.colours)(mask)


def test_a_colour_of_the_256th_class_is_not_the_ignored_label():
    colours = [[i % 16, i // 16, 7] for i in range(256)]
    mask = np.array([[colours[255], colours[3]]], dtype=np.uint8)
    assert Labels([f"class {i}" for i in range(256)], colours=colours)(mask).tolist() == [[255, 3]]


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["crack"], {}, r"there is one class \(crack\): .* name the background"),
        (["a", "a"], {}, "two classes are called 'a'"),
        (AB, dict(values={255: 2}), "values: 255 becomes 2, and the 2 classes are 0 to 1"),
        (AB, dict(values={70000: 1}), "values: 70000 is not a value of a mask"),
        (AB, dict(ignore=-1), "ignore_label: -1 is not a value of a mask"),
        (AB, dict(groups={"x": ["a", "c"]}), "classes: 'c' is none of the data set's classes"),
        (AB, dict(groups={"x": ["a"], "y": ["b", "a"]}), "classes: 'a' stands in two groups"),
        (AB, dict(groups={"x": ["a", "b"]}), "there is one class"),
        (AB, dict(groups={"x": ["a"], "y": ["b"]}, rest="z"), "rest: 'z' is none of the groups"),
        (AB, dict(colours=[[0, 0, 0]]), "colours: 1 colours for 2 classes"),
        (AB, dict(colours=[[1, 1, 1], [1, 1, 1]]), r"colours: \[1, 1, 1\] is the colour of two classes"),
        (AB, dict(ignore_colour=[1, 1, 1]), "ignore_colour needs colours"),
    ],
)
def test_options_about_labels_that_do_not_fit(names, options, message):
    with pytest.raises(LabelError, match=message):
        Labels(names, **options)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.array([[0, 255]]), r"label 255 is beyond .* values=\{255: NUMBER\}, .* ignore_label=255"),
        (np.array([[-1, 0]]), "-1 is not a label"),
        (np.array([[0, 1 << 20]]), "1048576 is not a label"),
        (np.array([[0.0, 0.5]]), "0.5 is not a label"),
        (np.array([[[0, 1, 2]]]), "a mask has one channel of labels, this has 3"),
    ],
)
def test_values_that_mean_nothing(mask, message):
    with pytest.raises(LabelError, match=message):
        Labels(AB, ignore=None)(mask)
