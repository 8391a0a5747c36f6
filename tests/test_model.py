"""Laws of the model: its loss is Pyro's ELBO, its prediction the model's marginal."""

import math

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO

from flowinv.guides import GUIDES
from flowinv.model import InvariantClassifier


def build(guide, original=True):
    model = InvariantClassifier.build(guide, "rotation_translation", in_channels=1, classes=5, width=4)
    model.original = original
    with torch.no_grad():  # away from the start, where the encoder's gradients nearly vanish
        for parameter in model.q.parameters():
            parameter.mul_(1.5).add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("guide", list(GUIDES))
@pytest.mark.parametrize("original", [True, False])
@pytest.mark.parametrize(("alpha", "samples"), [(1.0, 1), (0.3, 1), (0.3, 7)])
def test_the_loss_is_pyros_elbo(guide, original, alpha, samples, images, labels):
    model = build(guide, original)
    elbo = Trace_ELBO(num_particles=samples, vectorize_particles=True, max_plate_nesting=1)
    pyro.clear_param_store()
    torch.manual_seed(1)
    expected = elbo.differentiable_loss(model.model, model.guide, images, labels, alpha) / len(images)
    torch.manual_seed(1)
    loss = model.loss(images, labels, alpha, samples)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    parameters = list(model.parameters())
    pairs = zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True)
    for ours, theirs in pairs:
        assert theirs.norm() > 0 and (ours - theirs).norm() <= 1e-2 * theirs.norm()


def test_without_entropy_term_the_loss_is_the_classifiers(images, labels):
    model = build("fixed", original=False)
    torch.manual_seed(1)
    loss = model.loss(images, labels, alpha=0.0, samples=3)
    torch.manual_seed(1)
    T = model.q(images).rsample((3,))
    log_probs = model.logits(images, T).log_softmax(-1)
    assert loss.item() == pytest.approx(-log_probs[:, torch.arange(8), labels].mean().item(), rel=1e-5)


def test_the_kl_of_a_fixed_box_is_the_volume_it_leaves_out(images, labels):
    model = build("none")
    model.q = GUIDES["fixed"](model.family, 1, half_width=[0.1, 0.2, 0.5])
    nll, kl, entropy = model.loss_terms(images, labels, 0.3, 4)
    assert kl.item() == pytest.approx(-0.3 * math.log(0.1 * 0.2 * 0.5), rel=1e-5)


def test_prediction_averages_probabilities_not_logits(images):
    model = build("fixed")
    model.classifier.head.weight.data *= 30  # far from 0, where the two would be one
    torch.manual_seed(1)
    prediction = model.predict(images, samples=20)
    torch.manual_seed(1)
    logits = model.logits(images, model.q(images).sample((20,)))
    assert torch.allclose(prediction.exp(), logits.softmax(-1).mean(0), atol=1e-6)
    assert torch.allclose(prediction.exp().sum(-1), torch.ones(8))
    assert not torch.allclose(prediction, logits.mean(0).log_softmax(-1), atol=1e-3)
    assert torch.allclose(model.predict(images, samples=0), model.classifier(images).log_softmax(-1))


def test_the_generative_program_draws_classes_from_the_marginal(images):
    """Run forward, T from the prior: the classes' frequencies are the averaged probabilities'."""
    model = build("fixed")  # its box is the whole box: q is the prior
    draws = torch.stack([model.model(images[:1]) for _ in range(600)]).flatten()
    frequency = torch.bincount(draws, minlength=5) / 600
    assert torch.allclose(frequency, model.predict(images[:1], 2000).exp()[0], atol=0.08)


def test_predict_refuses_what_is_not_an_image(images):
    for bad in (images * 255, images[0], (images * 255).byte(), images * torch.nan):
        with pytest.raises(ValueError, match="images: expected") as error:
            build("flow").predict(bad)
        assert "\n" not in str(error.value)
