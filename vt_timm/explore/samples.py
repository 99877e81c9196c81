"""The sample photos of the page: each comes with an installed library, under a licence that lets everyone show it."""

from dataclasses import dataclass
from importlib import resources, util
from pathlib import Path

CC_BY = "CC BY 2.0", "https://creativecommons.org/licenses/by/2.0/"
CC0 = "CC0", "https://creativecommons.org/publicdomain/zero/1.0/"
PUBLIC = "public domain", "https://creativecommons.org/public-domain/pdm/"
SKIMAGE = "https://scikit-image.org/docs/stable/api/skimage.data.html"  # where photos of unknown address are attributed


@dataclass(frozen=True)
class Sample:
    """A photo, with what it shows, who made it, and which models it suits (a model's `sample`)."""

    package: str
    file: str
    shows: str
    author: str
    source: str
    licence: tuple[str, str]
    suits: str = "photo"

    @property
    def path(self) -> Path:
        return Path(str(resources.files(self.package) / self.file))


SAMPLES = (
    Sample(
        "sklearn", "datasets/images/china.jpg", "a Chinese temple",
        "danielbuechele", "https://www.flickr.com/photos/danielbuechele/6061409035/", CC_BY,
    ),
    Sample("skimage", "data/chelsea.png", "a cat", "Stéfan van der Walt", SKIMAGE, CC0),
    Sample(
        "skimage", "data/rocket.jpg", "a rocket before its launch",
        "SpaceX", "https://www.flickr.com/photos/spacexphotos/16511594820/", PUBLIC,
    ),
    Sample("skimage", "data/coffee.png", "a cup of coffee", "Rachel Michetti", SKIMAGE, CC0),
    Sample(
        "sklearn", "datasets/images/flower.jpg", "a flower",
        "vultilion", "https://www.flickr.com/photos/vultilion/6056698931/", CC_BY,
    ),
    Sample("skimage", "data/astronaut.png", "the astronaut Eileen Collins", "NASA", SKIMAGE, PUBLIC, "person"),
    Sample("skimage", "data/camera.png", "a photographer in a coat", "Lav Varshney", SKIMAGE, CC0, "person"),
    Sample(
        "matplotlib", "mpl-data/sample_data/grace_hopper.jpg", "Grace Hopper in uniform",
        "US Navy", "https://commons.wikimedia.org/wiki/File:Grace_Hopper.jpg", PUBLIC, "person",
    ),
)  # fmt: skip


def sample_photos() -> list[Sample]:
    """Return the samples whose library is installed; matplotlib's always is, since the page draws with it."""
    return [one for one in SAMPLES if util.find_spec(one.package) and one.path.is_file()]
