"""Models around classifiers that exist, and models from what was written down of them."""

from typing import Any

import torch
from torch import nn

from ..checks import Registry
from ..guides import GUIDES
from ..model import InvariantClassifier
from ..networks import Features, Pretrained
from ..transforms import FAMILIES

EMBEDDING = 32  # size of the flows' context


def from_classifier(
    network: nn.Module | str,
    guide: str = "flow",
    family: str = "affine",
    *,
    classes: int | None = None,
    size: int = 224,
    features: str | None = None,
    frozen: bool = True,
    autocast: bool = False,
    **options,
) -> InvariantClassifier:
    """A model whose classifier exists already, with q(T | I) to be trained beside it.

    ``fit`` then trains q alone; with ``Settings(burn_in=0)`` from the first epoch on.

    Args:
        network: of images as its normalisation leaves them, for example torchvision's or timm's; a
            ``Pretrained`` one has said which. A name is that of a torchvision network with random
            weights, to be loaded or trained.
        guide, family: names in ``GUIDES`` and ``FAMILIES``.
        classes: how many; for a name alone.
        size: side of the images in pixels.
        features: name of the layer of the network that q's encoder looks at, instead of pixels:
            ``dict(network.named_modules())`` lists them. There is then no other pass than the
            classifier's own, up to that layer.
        frozen: whether the classifier stays as it is. One with random weights should not.
        autocast: whether the classifier computes in bfloat16 where PyTorch thinks it safe.
        options: of the guide.

    Raises:
        ValueError: a name is none of those there are, or a guide looks at no features.

    Example:
        >>> import torchvision
        >>> network = torchvision.models.resnet18(weights=None)  # or weights="DEFAULT"
        >>> model = from_classifier(network, "flow", "rotation", features="layer2", size=64)
        >>> model.predict(torch.rand(2, 3, 64, 64), samples=4).shape
        torch.Size([2, 1000])
    """
    name = network if isinstance(network, str) else None
    if isinstance(network, str):
        network = _torchvision(network, classes)
    if not isinstance(network, Pretrained):
        network = Pretrained(network, frozen=frozen)
    config: dict[str, Any] = {
        "guide": guide,
        "family": family,
        "autocast": autocast,
        "options": dict(options),
        "classifier": {
            "network": name,
            "classes": classes,
            "size": size,
            "features": features,
            "frozen": network.frozen,
            "mean": network.mean.flatten().tolist(),
            "std": network.std.flatten().tolist(),
        },
    }
    transformations = FAMILIES[family]
    channels = len(network.mean)
    if features:
        images = torch.zeros(1, channels, size, size)
        # Named as in the network itself, or as in the wrapper, whose names an error lists.
        layer = f"network.{features.removeprefix('network.')}"
        options["encoder"] = Features(network, layer, images, EMBEDDING)
    try:
        q = GUIDES[guide](transformations, channels, **options)
    except TypeError as error:
        raise ValueError(
            f"{guide}: expected options that this guide takes, got {', '.join(options)} ({error})"
        ) from None
    # A frozen classifier learns nothing from the image as it is.
    original = not network.frozen
    model = InvariantClassifier(network, q, transformations, original, autocast=autocast)
    model.config = config
    return model


def from_config(config: dict[str, Any], network: nn.Module | None = None) -> InvariantClassifier:
    """An untrained model of the kind that a stored configuration tells of.

    Args:
        config: plain data, as ``InvariantClassifier.build`` and ``from_classifier`` leave it in
            ``model.config``.
        network: the classifier's network, where the model was not built from a name.

    Raises:
        ValueError: the network is needed and was not given, or the other way round.

    Example:
        >>> model = InvariantClassifier.build("flow", "rotation", in_channels=1, classes=5)
        >>> from_config(model.config).family.names
        ('rotation',)
    """
    config = dict(config)
    options = config.pop("options")
    if "classifier" not in config:
        return InvariantClassifier.build(**config, **options)
    classifier = config.pop("classifier")
    name = classifier.pop("network")
    if (name is None) == (network is None):
        raise ValueError(
            "network: expected the classifier's network, since the model was not built from a name"
            if name is None
            else f"network: expected none, since the model was built from the name {name!r}"
        )
    mean, std = classifier.pop("mean"), classifier.pop("std")
    frozen = classifier.pop("frozen")
    wrapped = Pretrained(network or _torchvision(name, classifier["classes"]), mean, std, frozen)
    model = from_classifier(wrapped, **config, **classifier, **options)
    assert model.config is not None
    model.config["classifier"]["network"] = name
    return model


def _torchvision(name: str, classes: int | None) -> nn.Module:
    """A torchvision network by name, with random weights."""
    from torchvision import models  # importing it takes a second

    names = Registry("classifier", **dict.fromkeys(models.list_models(module=models)))
    names[name]
    if classes is None:
        raise ValueError(f"classes: expected how many there are for the network {name!r}, got None")
    return models.get_model(name, weights=None, num_classes=classes)
