"""Small data sets of images and masks, and settings for runs on them that take a second."""

import numpy as np
from PIL import Image

from vt_timm.segmentation.settings import Settings

FOLDERS = {
    "folder": ("{split}/images", "{split}/labels"),
    "lip": ("TrainVal_images/{split}_images", "TrainVal_parsing_annotations/{split}_segmentations"),
    "coco_stuff": ("{split}2017", "stuffthingmaps_trainval2017/{split}2017"),
}
PLAIN = dict(mean=(0.0,) * 3, std=(1.0,) * 3)


def write_pair(root, layout, split, name, mask, image=None):
    images, labels = (root / folder.format(split=split) for folder in FOLDERS[layout])
    for folder in (images, labels):
        folder.mkdir(parents=True, exist_ok=True)
    if image is None:  # brightness says the label
        image = np.repeat((mask * 40 + 20).astype(np.uint8)[..., None], 3, axis=2)
    Image.fromarray(image).save(images / f"{name}.jpg", quality=95)
    Image.fromarray(mask.astype(np.uint8)).save(labels / f"{name}.png")


def write_small(root):
    """Six training and three validation pictures of different sizes: a bright square on a dark ground."""
    random = np.random.default_rng(0)
    for split, number in (("train", 6), ("val", 3)):
        for i in range(number):
            mask = np.zeros((48 + 4 * i, 64), dtype=np.uint8)
            top, left = random.integers(0, 24, 2)
            mask[top : top + 24, left : left + 24] = 1
            write_pair(root, "folder", split, f"{i:03d}", mask)
    (root / "classes.txt").write_text("ground\nsquare\n")


def settings(root, **changes):
    neck = dict(channels=16, token_dim=32, num_heads=4)
    tiny = dict(backbone="vt_resnet_micro", neck_options=neck, crop_size=32, lr=0.05, updates=4, batch_size=2)
    return Settings(data_dir=str(root), **{**tiny, "evaluate_every": 2, "workers": 0, **changes})
