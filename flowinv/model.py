"""The graphical model and its guide in Pyro, the same loss without Pyro's bookkeeping, prediction.

::

    P(C, L, T | I) = P(C | L) · δ(L − A_T(I)) · P(T),      guide q(T | I),

with class C, latent image L, transformation T, observed image I and P(T) uniform over the box. The
negative ELBO, its T terms weighted by α = 1/λ, is what training minimises::

    loss = E_{T ~ q} [−log f(C; A_T(I))] + α · KL(q(T | I) ‖ uniform)  [− log f(C; I)].

The term in brackets is there where the classifier is also to know images as they come
(``original``), as it is unless told otherwise. KL = D log 2 − entropy, so α pays for entropy: α → 0
gives the one most convenient transformation, large α all of them.

Source: Singhal et al. 2023.
"""

import math
from collections.abc import Callable
from itertools import chain
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro import poutine
from torch import Tensor, nn

from .checks import check_count, told
from .data.reading import Images, as_floats, parts, shape_of
from .distributions import Draw, Uniform, draw
from .guides import GUIDES
from .networks import ConvNet
from .transforms import FAMILIES, Family, Parameters, TransformFamily

# Transformed images at once in a prediction, in bytes. On a CPU more than its cache holds is three
# times slower; on a GPU less leaves it idle.
AT_ONCE = {"cpu": 3 * 2**19, "cuda": 2**28}


class InvariantClassifier(nn.Module):
    """A classifier f, a guide q(T | I) and the family that T belongs to.

    Args:
        classifier: module of images (N, C, H, W) to logits (N, classes).
        guide: module of images (B, C, H, W) to a distribution over (D,), as in flowinv.guides.
        family: the transformations.
        original: whether the loss adds −log f(C; I), so that f also knows images as they come.
        draw: how the loss samples q: a function of q and a number, as flowinv.distributions.draw.
        autocast: whether the classifier computes in bfloat16 where PyTorch thinks it safe:
            faster on recent processors. Transformations, densities and the loss stay in the images'
            precision.

    Example:
        >>> model = InvariantClassifier.build("flow", "rotation_translation", 1, classes=5)
        >>> images, labels = torch.rand(8, 1, 28, 28), torch.arange(8) % 5
        >>> model.loss(images, labels, alpha=0.3).shape
        torch.Size([])
        >>> model.predict(images, samples=20).shape
        torch.Size([8, 5])
    """

    config: dict[str, Any] | None = None  # of a model built by name: with what, as plain data
    about: dict[str, Any] | None = None  # of a model that was loaded: what was saved beside it

    def __init__(
        self,
        classifier: nn.Module,
        guide: nn.Module,
        family: Family,
        original: bool = True,
        draw: Callable[[dist.TorchDistribution, int], Draw] = draw,
        autocast: bool = False,
    ):
        super().__init__()
        self.classifier = classifier
        self.q = guide
        self.family = family
        self.original = original
        self.draw = draw
        self.autocast = autocast

    def extra_repr(self) -> str:
        return f"original={self.original}, autocast={self.autocast}"

    @classmethod
    def build(
        cls,
        guide: str,
        family: str,
        in_channels: int,
        classes: int,
        width: int = 16,
        **options,
    ) -> "InvariantClassifier":
        """The parts by name: a small classifier, ``GUIDES[guide]`` and ``FAMILIES[family]``.

        Args:
            guide, family: names in those registries.
            in_channels: of the images.
            classes: how many.
            width: of the classifier, a ``ConvNet``.
            options: of the guide.
        """
        transformations = FAMILIES[family]
        classifier = ConvNet(in_channels, classes, width)
        model = cls(
            classifier, GUIDES[guide](transformations, in_channels, **options), transformations
        )
        model.config = {
            "guide": guide,
            "family": family,
            "in_channels": in_channels,
            "classes": classes,
            "width": width,
            "options": options,
        }
        return model

    @property
    def device(self) -> torch.device:
        """Where the parameters and buffers are; the CPU if there are none."""
        tensors = chain(self.parameters(), self.buffers())
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters; the usual one if there are none."""
        return next((p.dtype for p in self.parameters()), torch.get_default_dtype())

    def classify(self, images: Tensor) -> Tensor:
        """f's logits of images as they are: (B, classes)."""
        if not self.autocast:
            return self.classifier(images)
        with torch.autocast(images.device.type, torch.bfloat16):
            return self.classifier(images).to(images.dtype)

    def logits(self, images: Tensor, T: Tensor) -> Tensor:
        """The classifier's logits of A_T(I): (S, B, classes) for T (S, B, D), else (B, classes)."""
        # Samples of a guide lie in the box; looking at them would make a GPU wait.
        latent = self.family.warp(images, T, validate=False)
        return self.classify(latent.flatten(0, -4)).unflatten(0, T.shape[:-1])

    def model(self, images: Tensor, labels: Tensor | None = None, alpha: float = 1.0) -> Tensor:
        """The generative program: T from the prior, the image transformed, its class observed.

        ``alpha`` must be above 0 here and in ``guide``: Pyro scales by positive numbers only.
        """
        pyro.module("classifier", self.classifier)
        with pyro.plate("images", len(images), dim=-1):
            with poutine.scale(scale=alpha):
                T = pyro.sample("T", self.prior(images))
            if self.original:
                plain = dist.Categorical(logits=self.classify(images))
                pyro.sample("C_original", plain, obs=labels)
            return pyro.sample("C", dist.Categorical(logits=self.logits(images, T)), obs=labels)

    def guide(self, images: Tensor, labels: Tensor | None = None, alpha: float = 1.0) -> Tensor:
        """The variational program: T from q(T | I)."""
        pyro.module("q", self.q)
        with pyro.plate("images", len(images), dim=-1), poutine.scale(scale=alpha):
            return pyro.sample("T", self.q(images))

    def prior(self, images: Tensor) -> Uniform:
        """P(T), uniform over the box for each image: batch shape (B,), event shape (D,)."""
        edge = images.new_ones(len(images), self.family.dim)
        return Uniform(-edge, edge)

    def loss(
        self,
        images: Tensor,
        labels: Tensor,
        alpha: float | Tensor = 1.0,
        samples: int = 1,
        smoothing: float = 0.0,
    ) -> Tensor:
        """The negative ELBO per image, estimated with S samples of T: a scalar.

        With ``original`` −log f(C; I) comes on top. Without smoothing it equals
        pyro.infer.Trace_ELBO on ``model`` and ``guide`` divided by the number of images, and takes
        a fraction of the time. For a q without reparametrised samples the two are equal in
        expectation, and so are their gradients; this one varies less (see
        flowinv.distributions.draw).

        Args:
            images: (B, C, H, W), floats in [0, 1].
            labels: (B,), int64.
            alpha: price of entropy.
            samples: S.
            smoothing: share of each label that is spread over all classes (Szegedy et al. 2016).
        """
        return self.weigh(*self.loss_terms(images, labels, samples, smoothing), alpha)

    def weigh(self, nll: Tensor, entropy: Tensor, alpha: float | Tensor) -> Tensor:
        """The classifier's term plus α · KL(q ‖ uniform), from what ``loss_terms`` returns."""
        return nll + alpha * (self.family.dim * math.log(2) - entropy)

    def loss_terms(
        self, images: Tensor, labels: Tensor, samples: int = 1, smoothing: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """(classifier's term, entropy of q in nats), each a mean over images.

        The way of the data: propose transformations, apply them, evaluate. All three compile whole.
        """
        parameters, log_prob, weights = self.propose(images, samples)
        latent = self.family.apply(images, parameters)
        return self.evaluate(images, latent, labels, log_prob, weights, smoothing)

    def propose(self, images: Tensor, samples: int) -> tuple[Parameters, Tensor, Tensor]:
        """The family's parameters of samples (S, B), their log-densities and weights (S, B)."""
        T, log_prob, weights = self.draw(self.q(images), samples)
        with torch.autocast(images.device.type, enabled=False):  # half is too coarse for places
            return self.family.prepare(T), log_prob, weights

    def evaluate(
        self,
        images: Tensor,
        latent: Tensor,
        labels: Tensor,
        log_prob: Tensor,
        weights: Tensor,
        smoothing: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """The two terms, from latent images (S, B, C, H, W) and what ``propose`` returned."""
        S, B = log_prob.shape
        logits = self.classify(latent.flatten(0, 1)).unflatten(0, (S, B))
        nll = F.cross_entropy(
            logits.movedim(-1, 1), labels.expand(S, B), reduction="none", label_smoothing=smoothing
        )
        nll = (weights * nll).sum(0).mean()
        entropy = -(weights * log_prob).sum(0).mean()
        if self.original:
            plain = self.classify(images)
            nll = nll + F.cross_entropy(plain, labels, label_smoothing=smoothing)
        return nll, entropy

    @torch.no_grad()
    def predict(
        self, images: Images, samples: int = 20, chunk: int | None = None, workers: int = 0
    ) -> Tensor:
        """log P(C | I) ≈ log Σ_s w_s f(C; A_{T_s}(I)): class log-probabilities (B, classes).

        Probabilities are averaged, not logits: that is what the graphical model says. The images
        move to the model's device, in parts.

        Args:
            images: (B, C, H, W), floats in [0, 1] or bytes (uint8); or a map-style Dataset of
                (image, label), read as it is needed. Its labels are not looked at.
            samples: S, as ``draw`` has it: a point mass needs one pass, a mixture takes a multiple
                of its components. 0 leaves the image as it is: the plain classifier.
            chunk: how many transformed images there are at once (or the samples of one image;
                a mixture's may be as many more as make a multiple of its components), which bounds
                the memory. None: so many that they suit the device's caches.
            workers: processes that read a Dataset.

        Raises:
            ValueError: if the images are no floats in [0, 1] with shape (B, C, H, W).
            DataError: a Dataset's file cannot be read.
        """
        dtype = self.dtype
        check_count("samples", samples, least=0)
        if chunk is not None:
            check_count("chunk", chunk)
        else:
            at_once = AT_ONCE["cuda" if self.device.type == "cuda" else "cpu"]
            chunk = at_once // max(1, math.prod(shape_of(images)) * dtype.itemsize)
        size = max(1, chunk // max(1, samples))
        found = []
        for part in parts(images, size, workers):
            some = as_floats(part.to(self.device), dtype)
            with told(some, self.q, self.classifier):
                found.append(self._predict(some, samples))
        return torch.cat(found)

    def _predict(self, images: Tensor, samples: int) -> Tensor:
        if samples == 0:
            return self.classify(images).log_softmax(-1)
        T, _, weights = draw(self.q(images), samples)
        log_probs = self.logits(images, T).log_softmax(-1)
        return (log_probs + weights.log().unsqueeze(-1)).logsumexp(0)


class AtAnyPose(InvariantClassifier):
    """The same model, whose q learns from images transformed by S ~ P(T).

    For a classifier that is frozen after burn-in, and so has seen images as they are alone: q then
    learns which way back from any pose makes that classifier right.

    Example:
        >>> model = AtAnyPose.build("mixture_flow", "rotation", 1, classes=5)
        >>> model.loss(torch.rand(8, 1, 28, 28), torch.arange(8) % 5, alpha=0.3).shape
        torch.Size([])
    """

    def loss_terms(
        self, images: Tensor, labels: Tensor, samples: int = 1, smoothing: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        posed = self.family.warp(images, self.prior(images).sample(), validate=False)
        return super().loss_terms(posed, labels, samples, smoothing)


class PoseLearner(InvariantClassifier):
    """The same model, whose q learns from known poses and not from what the classifier says.

    Training images L show how things stand. Transformed by S ~ P(T), one becomes an image
    I = A_S(L) from which a way back is known: T = −S. q learns which T are likely when I alone is
    seen::

        loss = −log f(C; L) − log q(−S | A_S(L)).

    So q tends to the posterior of T for a picture that stood as those in training, in a transformed
    image; all modes of it, as this is the other direction of KL. The classifier learns from images
    as they are, q needs no labels, and α plays no part. q must have a density above 0 in all of the
    box, as flows and mixtures have: that of a box ends, and the loss is then infinite.

    Source: Hinton et al. 1995 (the sleep phase of wake-sleep); Papamakarios and Murray 2016.

    Raises:
        ValueError: the family has no generators, so that −T need not undo T.

    Example:
        >>> model = PoseLearner.build("mixture_flow", "rotation", 1, classes=5)
        >>> model.loss(torch.rand(8, 1, 28, 28), torch.arange(8) % 5).shape
        torch.Size([])
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if not isinstance(self.family, TransformFamily):
            raise ValueError(
                "pose learner: expected a family with generators, where −T undoes T, got"
                f" {type(self.family).__name__}"
            )

    def loss_terms(
        self, images: Tensor, labels: Tensor, samples: int = 1, smoothing: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        S = self.prior(images).sample()
        q = self.q(self.family.warp(images, S, validate=False))
        plain = F.cross_entropy(self.classify(images), labels, label_smoothing=smoothing)
        with torch.no_grad():
            _, log_prob, weights = self.draw(q, samples)
            entropy = -(weights * log_prob).sum(0).mean()
        return plain - q.log_prob(-S).mean(), entropy

    def weigh(self, nll: Tensor, entropy: Tensor, alpha: float | Tensor) -> Tensor:
        """Likelihood has no price of entropy."""
        return nll
