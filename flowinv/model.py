"""The graphical model and its guide in Pyro, the same loss without Pyro's bookkeeping, prediction.

    P(C, L, T | I) = P(C | L) · δ(L − A_T(I)) · P(T),      guide q(T | I),

with class C, latent image L, transformation T, observed image I and P(T) uniform over the box. The
negative ELBO, its T terms weighted by α = 1/λ, is what training minimises:

    loss = E_{T ~ q} [−log f(C; A_T(I))] + α · KL(q(T | I) ‖ uniform).

KL = D log 2 − entropy, so α pays for entropy: α → 0 gives the one most convenient transformation,
large α all of them. Source: Singhal et al. 2023.
"""

import math
from itertools import chain

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro import poutine
from torch import Tensor, nn

from .bases import BoxUniform, draw
from .checks import check_images
from .guides import GUIDES
from .networks import ConvNet
from .transforms import FAMILIES, TransformFamily


class InvariantClassifier(nn.Module):
    """A classifier f, a guide q(T | I) and the family that T belongs to.

    classifier: images (N, C, H, W) → logits (N, classes).
    guide: images (B, C, H, W) → distribution over (D,), as in flowinv.guides.
    family: the transformations.
    original: whether the loss adds −log f(C; I), so that f also knows images as they come.
    draw: how the loss samples q; bases.draw_hard and bases.draw_relaxed are there to see them fail.
    bfloat16: whether the classifier computes in bfloat16 where PyTorch thinks it safe (autocast): faster on recent
        GPUs. Transformations, densities and the loss stay in the images' precision.

    >>> model = InvariantClassifier.build("flow", "rotation_translation", in_channels=1, classes=5)
    >>> images, labels = torch.rand(8, 1, 28, 28), torch.arange(8) % 5
    >>> model.loss(images, labels, alpha=0.3).shape
    torch.Size([])
    >>> model.predict(images, samples=20).shape
    torch.Size([8, 5])
    """

    def __init__(
        self, classifier: nn.Module, guide: nn.Module, family: TransformFamily, original: bool = True, draw=draw,
        bfloat16: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.classifier, self.q, self.family, self.original, self.draw = (
            classifier,
            guide,
            family,
            original,
            draw,
        )
        self.bfloat16 = bfloat16

    def extra_repr(self) -> str:
        return f"original={self.original}, draw={getattr(self.draw, '__name__', self.draw)}, bfloat16={self.bfloat16}"

    @classmethod
    def build(
        cls, guide: str, family: str, in_channels: int, classes: int, width: int = 16, **options
    ):
        """The parts by name: a small classifier, GUIDES[guide](**options) and FAMILIES[family]."""
        family = FAMILIES[family]
        return cls(
            ConvNet(in_channels, classes, width),
            GUIDES[guide](family, in_channels, **options),
            family,
        )

    @property
    def device(self) -> torch.device:
        """Where the parameters and buffers are; the CPU if there are none."""
        return next(
            (tensor.device for tensor in chain(self.parameters(), self.buffers())),
            torch.device("cpu"),
        )

    def classify(self, images: Tensor) -> Tensor:
        """f's logits of images as they are: (B, classes)."""
        if not self.bfloat16:
            return self.classifier(images)
        with torch.autocast(images.device.type, torch.bfloat16):
            return self.classifier(images).to(images.dtype)

    def logits(self, images: Tensor, T: Tensor) -> Tensor:
        """The classifier's logits of A_T(I): (S, B, classes) for T (S, B, D), (B, classes) for (B, D)."""
        # Samples of a guide lie in the box; looking at them would make a GPU wait.
        latent = self.family.warp(images, T, validate=False)
        return self.classify(latent.flatten(0, -4)).unflatten(0, T.shape[:-1])

    def model(self, images: Tensor, labels: Tensor | None = None, alpha: float = 1.0) -> Tensor:
        """The generative program: T from the uniform prior, the image transformed, its class observed.

        alpha must be above 0 here and in `guide`: Pyro scales by positive numbers only.
        """
        pyro.module("classifier", self.classifier)
        with pyro.plate("images", len(images), dim=-1):
            with poutine.scale(scale=alpha):
                T = pyro.sample("T", self.prior(images))
            if self.original:
                pyro.sample(
                    "C_original", dist.Categorical(logits=self.classify(images)), obs=labels
                )
            return pyro.sample("C", dist.Categorical(logits=self.logits(images, T)), obs=labels)

    def guide(self, images: Tensor, labels: Tensor | None = None, alpha: float = 1.0) -> Tensor:
        """The variational program: T from q(T | I)."""
        pyro.module("q", self.q)
        with pyro.plate("images", len(images), dim=-1), poutine.scale(scale=alpha):
            return pyro.sample("T", self.q(images))

    def prior(self, images: Tensor) -> dist.Distribution:
        """P(T), uniform over the box for each image: batch shape (B,), event shape (D,)."""
        edge = images.new_ones(len(images), self.family.dim)
        return BoxUniform(-edge, edge, validate_args=False).to_event(1)

    def loss(
        self,
        images: Tensor,
        labels: Tensor,
        alpha: float | Tensor = 1.0,
        samples: int = 1,
        smoothing: float = 0.0,
    ) -> Tensor:
        """The negative ELBO per image, estimated with S samples of T: a scalar.

        smoothing: share of each label that is spread over all classes (Szegedy et al. 2016).

        Without smoothing it equals pyro.infer.Trace_ELBO on `model` and `guide` divided by the number
        of images, and takes a fraction of the time. For a q without reparametrised samples the two
        are equal in expectation, and so are their gradients; this one varies less (see bases.draw).
        """
        return self.weigh(*self.loss_terms(images, labels, samples, smoothing), alpha)

    def weigh(self, nll: Tensor, entropy: Tensor, alpha: float | Tensor) -> Tensor:
        """The classifier's term plus α · KL(q ‖ uniform), from what loss_terms returns."""
        return nll + alpha * (self.family.dim * math.log(2) - entropy)

    def loss_terms(
        self, images: Tensor, labels: Tensor, samples: int = 1, smoothing: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """(classifier's term, entropy of q in nats), each a mean over images."""
        T, log_prob, weights = self.draw(self.q(images), samples)
        logits = self.logits(images, T).movedim(-1, 1)  # (S, classes, B), as cross_entropy has it
        nll = F.cross_entropy(
            logits, labels.expand(len(T), -1), reduction="none", label_smoothing=smoothing
        )
        nll, entropy = ((weights * x).sum(0).mean() for x in (nll, -log_prob))
        if self.original:
            nll = nll + F.cross_entropy(self.classify(images), labels, label_smoothing=smoothing)
        return nll, entropy

    @torch.no_grad()
    def predict(self, images: Tensor, samples: int = 20, chunk: int = 2048) -> Tensor:
        """log P(C | I) ≈ log 1/S Σ_s f(C; A_{T_s}(I)): class log-probabilities (B, classes).

        Probabilities are averaged, not logits: that is what the graphical model says. samples = 0
        leaves the image as it is: the plain classifier. The images move to the model's device, in parts: chunk
        is how many transformed images there are at once (or the samples of one image), which bounds the memory. Raises
        ValueError if the images are not floats in [0, 1] with shape (B, C, H, W).
        """
        check_images(images)
        parts = images.split(max(1, chunk // max(1, samples)))
        return torch.cat([self._predict(part.to(self.device), samples) for part in parts])

    def _predict(self, images: Tensor, samples: int) -> Tensor:
        if samples == 0:
            return self.classify(images).log_softmax(-1)
        log_probs = self.logits(images, self.q(images).sample((samples,))).log_softmax(-1)
        return log_probs.logsumexp(0) - math.log(samples)
