"""A trained segmenter as the start of another training."""

from ..errors import UserError
from ..pipelines.sources import load_network
from .model import Segmenter


def start_from(model: Segmenter, source: str) -> list[str]:
    """Copy a trained segmenter's weights into a new one. What classifies is copied for the classes of the same name.

    Args:
        model: the new segmenter, of the same backbone and neck.
        source: the name of a shipped segmenter, the folder of one or of a training run, or a Hub repository.

    Returns:
        The classes that were copied.

    Raises:
        ValueError: if it cannot be loaded, or has another backbone, neck, or mean and standard deviation of colours.
    """
    try:
        trained = load_network(source, "segmenter")
    except UserError as error:
        raise ValueError(f"initial_checkpoint={source!r}: {error}") from error
    target, weights = model.state_dict(), trained.state_dict()
    heads = [key for key in target if key.startswith("head.classifier.")]
    for key in sorted(target.keys() ^ weights.keys()) or [k for k in target if target[k].shape != weights[k].shape]:
        if key not in heads:
            raise ValueError(f"initial_checkpoint={source!r} has another backbone or neck: {key} does not fit")
    if model.normalization != trained.normalization:
        raise ValueError(
            f"initial_checkpoint={source!r} was trained with other colours' mean and deviation: {trained.normalization}"
        )
    known = [name for name in model.class_names if name in trained.class_names]
    for key, tensor in target.items():
        if key not in heads:
            tensor.copy_(weights[key])
            continue
        for name in known:
            tensor[model.class_names.index(name)] = weights[key][trained.class_names.index(name)]
    return known
