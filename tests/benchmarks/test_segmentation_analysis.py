"""What `benchmarks.segmentation_analysis` says of tokens, on networks of which the answer is known."""

import copy

import pytest
import torch
from torch import nn

from benchmarks import segmentation
from benchmarks.segmentation_analysis import describe_tokens, scores_at, tokens_cut_off, validation_photos
from tests.support.fill import fill
from tests.support.segmentation import write_small
from vt_timm import create_segmenter
from vt_timm.segmentation.evaluation import evaluate

PHOTOS = [(torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(i)), None) for i in range(2)]


@pytest.fixture
def model():
    return fill(create_segmenter("vt_fpn", "vt_resnet_micro", 3, channels=32, token_dim=64, num_heads=4)).eval()


def test_flat_softmaxes_have_all_the_entropy_and_change_nothing_within_a_photo(model):
    for tokenizer, projector in zip(model.neck.tokenizers, model.neck.projectors, strict=True):
        nn.init.zeros_(tokenizer.filters.weight)
        nn.init.zeros_(projector.query)
    for row in describe_tokens(model, PHOTOS, photos=2):
        assert row["look"] == pytest.approx(1, abs=1e-4) and row["read"] == pytest.approx(1, abs=1e-4)
        assert row["alike"] == pytest.approx(1, abs=1e-3)
        assert row["update_within"] == pytest.approx(0, abs=1e-4) and row["update"] > 0.001


def test_sharp_softmaxes_have_less_entropy(model):
    before = describe_tokens(model, PHOTOS, photos=2)
    for tokenizer, projector in zip(model.neck.tokenizers, model.neck.projectors, strict=True):
        with torch.no_grad():
            tokenizer.norm.weight *= 50
            projector.query *= 50
    for row, flatter in zip(describe_tokens(model, PHOTOS, photos=2), before, strict=True):
        assert row["look"] < flatter["look"] and row["read"] < flatter["read"]


def test_tokens_are_cut_off_inside_only(model):
    bare = copy.deepcopy(model)
    for projector in bare.neck.projectors:
        nn.init.zeros_(projector.bn.weight)
        nn.init.zeros_(projector.bn.bias)
    image = PHOTOS[0][0][None]
    with torch.no_grad():
        whole = model(image)
        with tokens_cut_off(model, [0, 1, 2, 3]):
            torch.testing.assert_close(model(image), bare(image))
        with tokens_cut_off(model, [2]):
            assert not torch.allclose(model(image), bare(image))
        assert torch.equal(model(image), whole) and not torch.allclose(whole, bare(image))


def test_committed_page_is_what_the_rows_give():
    rows = segmentation.recorded()
    assert rows and segmentation.PAGE.read_text() == segmentation.page(rows)


def test_scores_of_one_view_are_those_of_the_evaluation(tmp_path):
    write_small(tmp_path)
    segmenter = create_segmenter("laterals", "vt_resnet_micro", 2, pretrained_backbone=True, channels=16).eval()
    data = validation_photos(segmenter, str(tmp_path), {})
    with torch.no_grad():  # so that each class is seen about as often
        segmenter.head.classifier.bias[1] -= (
            segmenter(data[0][0][None])[0, 1] - segmenter(data[0][0][None])[0, 0]
        ).median()
    expected = evaluate(segmenter, data)
    for scales, same in (((1.0,), True), ((0.7, 1.0, 1.4), False)):
        scores = scores_at(segmenter, str(tmp_path), {}, scales)
        assert (scores == {key: round(expected[key], 2) for key in ("miou", "pixel_accuracy")}) == same


def test_a_curve_has_every_evaluation(tmp_path):
    lines = ["update,train_loss,lr,miou,pixel_accuracy", "2,0.70001,0.1,10.004,50", "4,0.5,0.01,20.25,60"]
    (tmp_path / "summary.csv").write_text("\n".join(lines))
    assert segmentation.curve(tmp_path) == [(2, 0.7, 10.0), (4, 0.5, 20.25)]
