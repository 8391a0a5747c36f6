"""Laws of the model: its loss is Pyro's ELBO, its prediction the model's marginal."""

import math

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from flowinv.distributions import draw
from flowinv.guides import GUIDES
from flowinv.model import AT_ONCE, AtAnyPose, InvariantClassifier, PoseLearner
from flowinv.transforms import FAMILIES, compose


def build(guide, original=True, family="rotation_translation", **options):
    model = InvariantClassifier.build(guide, family, in_channels=1, classes=5, width=4, **options)
    model.original = original
    with torch.no_grad():  # away from the start, where the encoder's gradients nearly vanish
        for parameter in model.q.parameters():
            parameter.mul_(1.5).add_(0.05 * torch.randn_like(parameter))
    return model


REPARAMETRISED = [name for name in GUIDES if name not in ("instaaug_crops", "mixture_flow")]


@pytest.mark.parametrize("guide", REPARAMETRISED)
@pytest.mark.parametrize("original", [True, False])
@pytest.mark.parametrize(("alpha", "samples"), [(1.0, 1), (0.3, 1), (0.3, 7)])
def test_the_loss_is_pyros_elbo(guide, original, alpha, samples, images, labels):
    model = build(guide, original)
    elbo = Trace_ELBO(num_particles=samples, vectorize_particles=True, max_plate_nesting=1)
    pyro.clear_param_store()
    torch.manual_seed(1)
    expected = elbo.differentiable_loss(model.model, model.guide, images, labels, alpha) / len(
        images
    )
    torch.manual_seed(1)
    loss = model.loss(images, labels, alpha, samples)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    parameters = list(model.parameters())
    pairs = zip(
        torch.autograd.grad(loss, parameters),
        torch.autograd.grad(expected, parameters),
        strict=True,
    )
    for ours, theirs in pairs:
        assert theirs.norm() > 0 and (ours - theirs).norm() <= 1e-2 * theirs.norm()


WITHOUT_RSAMPLE = [
    ("mixture_flow", "rotation_translation", {"components": 3}),
    ("instaaug_crops", "crop", {}),
]


@pytest.mark.parametrize(("guide", "family", "options"), WITHOUT_RSAMPLE, ids=["mixture", "crops"])
def test_where_nothing_is_reparametrised_the_loss_is_pyros_elbo_in_expectation(
    guide, family, options, images, labels
):
    """Pyro uses the score function there; value and gradient agree within its samples' noise."""
    model = build(guide, False, family, **options)
    with torch.no_grad():  # so that transformations matter to the classifier
        model.classifier.head.weight.mul_(10)
    parameters = [p for p in model.q.parameters() if p.shape[-1] != 1 or p.ndim == 1]
    images, labels = images[:2], labels[:2]

    def repeat(loss, times):
        drawn = [(x := loss(), torch.autograd.grad(x, parameters)) for _ in range(times)]
        gradients = torch.stack([torch.cat([g.flatten() for g in row]) for _, row in drawn])
        return torch.stack([x.detach() for x, _ in drawn]), gradients

    def theirs():
        pyro.clear_param_store()
        elbo = Trace_ELBO(num_particles=500, vectorize_particles=True, max_plate_nesting=1)
        return elbo.differentiable_loss(model.model, model.guide, images, labels, 0.3) / len(images)

    value, gradient = repeat(lambda: model.loss(images, labels, 0.3, 600), 15)
    expected, exact = repeat(theirs, 25)
    error = (value.var() / 15 + expected.var() / 25).sqrt()
    assert abs(value.mean() - expected.mean()) < 4 * error and error < 0.02
    # One direction, that of the mean gradient, in which both have the same slope.
    direction = gradient.mean(0) / gradient.mean(0).norm()
    ours, pyros = gradient @ direction, exact @ direction
    error = (ours.var() / 15 + pyros.var() / 25).sqrt()
    assert abs(ours.mean() - pyros.mean()) < 4 * error and error < 0.35 * ours.mean()


def test_samples_of_a_mixture_are_weighted_in_the_loss(images, labels):
    model = build("mixture_flow", components=3)
    torch.nn.init.normal_(model.q.flow.base.linear.bias)  # weights that differ
    torch.manual_seed(1)
    nll, entropy = model.loss_terms(images, labels, 3)
    torch.manual_seed(1)
    T, log_prob, weights = draw(model.q(images), 3)
    each = -model.logits(images, T).log_softmax(-1)[:, torch.arange(8), labels]
    plain = -model.classifier(images).log_softmax(-1)[torch.arange(8), labels].mean()
    assert nll.item() == pytest.approx(((weights * each).sum(0).mean() + plain).item(), rel=1e-5)
    assert entropy.item() == pytest.approx(-(weights * log_prob).sum(0).mean().item(), rel=1e-5)
    assert weights.std() > 0.01


def test_how_q_is_drawn_can_be_chosen(images, labels):
    model = build("flow")
    model.draw = lambda q, samples: draw(q, 3)
    torch.manual_seed(1)
    three = model.loss(images, labels, 0.3, samples=7)
    model.draw = draw
    torch.manual_seed(1)
    assert three.item() == pytest.approx(model.loss(images, labels, 0.3, samples=3).item())


def test_smoothing_mixes_in_all_classes(images, labels):
    model = build("none")
    log_probs = model.classifier(images).log_softmax(-1)
    right, all_classes = -log_probs[torch.arange(8), labels].mean(), -log_probs.mean()
    nll, _ = model.loss_terms(images, labels, 1, smoothing=0.2)
    assert nll.item() == pytest.approx(2 * (0.8 * right + 0.2 * all_classes).item(), rel=1e-5)


def test_without_entropy_term_the_loss_is_the_classifiers(images, labels):
    model = build("fixed", original=False)
    torch.manual_seed(1)
    loss = model.loss(images, labels, alpha=0.0, samples=3)
    torch.manual_seed(1)
    T = model.q(images).rsample((3,))
    log_probs = model.logits(images, T).log_softmax(-1)
    assert loss.item() == pytest.approx(
        -log_probs[:, torch.arange(8), labels].mean().item(), rel=1e-5
    )


def test_the_kl_of_a_fixed_box_is_the_volume_it_leaves_out(images, labels):
    model = build("none")
    model.q = GUIDES["fixed"](model.family, 1, half_width=[0.1, 0.2, 0.5])
    nll, entropy = model.loss_terms(images, labels, 4)
    assert entropy.item() == pytest.approx(math.log(0.2 * 0.4 * 1.0), rel=1e-5)
    kl = model.loss(images, labels, 0.3, 4) - nll
    assert kl.item() == pytest.approx(-0.3 * math.log(0.1 * 0.2 * 0.5), rel=1e-3)


def test_prediction_averages_probabilities_not_logits(images):
    model = build("fixed")
    model.classifier.head.weight.data *= 300  # far from 0, where the two would be one
    torch.manual_seed(1)
    prediction = model.predict(images, samples=20)
    torch.manual_seed(1)
    logits = model.logits(images, model.q(images).sample((20,)))
    assert torch.allclose(prediction.exp(), logits.softmax(-1).mean(0), atol=1e-6)
    assert torch.allclose(prediction.exp().sum(-1), torch.ones(8))
    assert not torch.allclose(prediction, logits.mean(0).log_softmax(-1), atol=1e-3)
    assert torch.allclose(
        model.predict(images, samples=0), model.classifier(images).log_softmax(-1)
    )


def test_the_generative_program_draws_classes_from_the_marginal(images):
    """Run forward, T from the prior: the classes' frequencies are the averaged probabilities'."""
    model = build("fixed")  # its box is the whole box: q is the prior
    draws = torch.stack([model.model(images[:1]) for _ in range(600)]).flatten()
    frequency = torch.bincount(draws, minlength=5) / 600
    assert torch.allclose(frequency, model.predict(images[:1], 2000).exp()[0], atol=0.08)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_prediction_of_a_dataset_is_that_of_its_tensors(workers, images, labels):
    """Bit for bit, in the same parts with the same draws; of bytes as of floats."""
    pictures = (images.repeat(9, 1, 1, 1) * 255).byte()
    model = build("flow").eval()
    dataset = TensorDataset(pictures, labels.repeat(9))
    for chunk in (None, 50):  # five images at a time
        found = []
        for data in (pictures / 255, pictures, dataset):
            torch.manual_seed(1)
            found.append(model.predict(data, samples=10, chunk=chunk, workers=workers))
        assert all(torch.equal(one, found[0]) for one in found[1:])


def test_predict_refuses_what_is_not_an_image(images):
    for bad in (images * 255, images[0], (images * 255).long(), images * torch.nan):
        with pytest.raises(ValueError, match="images: expected") as error:
            build("flow").predict(bad)
        assert "\n" not in str(error.value)


def test_prediction_in_parts_is_the_same_and_bounds_the_memory(images):
    """The classifier never sees more images at once than it should."""
    seen = []
    model = build("fixed")
    model.q = GUIDES["fixed"](model.family, 1, half_width=1e-6)  # so that every sample is the same
    model.classifier.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    whole = model.predict(images, samples=3)
    for chunk, largest in ((24, 24), (7, 6), (1, 3)):
        seen.clear()
        assert torch.allclose(model.predict(images, samples=3, chunk=chunk), whole, atol=1e-4)
        assert max(seen) == largest and sum(seen) == 24


def test_a_point_mass_is_predicted_by_one_pass(images):
    seen = []
    model = build("none")
    model.classifier.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    averaged = model.predict(images, samples=20)
    assert sum(seen) == 8
    assert torch.allclose(averaged, model.predict(images, samples=0), atol=1e-5)


def test_parts_are_chosen_by_bytes():
    """As many small images at once as fill what few large ones do."""
    seen = []
    model = build("fixed")
    model.classifier.register_forward_hook(lambda module, args, output: seen.append(args[0].nbytes))
    for side in (28, 64):
        model.predict(torch.rand(600, 1, side, side), samples=0)
        assert 0.9 * AT_ONCE["cpu"] < max(seen) <= AT_ONCE["cpu"]
        seen.clear()


def test_a_prediction_weighs_the_components_of_a_mixture(images):
    """Each by its own weight, exactly, where its samples are all the same."""
    model = build("mixture_flow", components=3, scale=1e-6, family="rotation")
    torch.nn.init.normal_(model.q.flow.base.linear.bias)
    model.classifier.head.weight.data *= 100
    q = model.q(images)
    T = q.draw(1).T
    expected = (q.base.log_weights.exp().T[..., None] * model.logits(images, T).softmax(-1)).sum(0)
    assert torch.allclose(model.predict(images, 3).exp(), expected, atol=1e-3)


PAIRS = [(guide, "crop" if guide == "instaaug_crops" else "affine") for guide in GUIDES]


@pytest.mark.parametrize(("guide", "family"), PAIRS)
def test_the_way_from_images_to_the_loss_compiles_whole(guide, family, images, labels):
    """Encoder, draw, warp, classifier and loss, with gradients: the graph has no break."""
    model = build(guide, family=family)
    parameters = list(model.parameters())
    torch.compiler.reset()
    found = []
    for loss in (model.loss, torch.compile(model.loss, backend="aot_eager", fullgraph=True)):
        torch.manual_seed(1)
        value = loss(images, labels, 0.3, 2)
        found.append([value, *torch.autograd.grad(value, parameters)])
    for eager, compiled in zip(*found, strict=True):
        assert torch.allclose(eager, compiled, rtol=1e-4, atol=1e-5)


def test_in_bfloat16_only_the_classifier_is_less_exact(images, labels):
    """The loss is near, and what the flow and the warp compute is the same to the last bit."""
    exact, half = build("flow"), build("flow")
    half.load_state_dict(exact.state_dict())
    half.autocast = True
    latent, terms = [], []
    for model in (exact, half):
        model.classifier.register_forward_pre_hook(lambda module, args: latent.append(args[0]))
        torch.manual_seed(0)
        terms.append(model.loss_terms(images, labels, 2))
        terms[-1][0].backward()
    assert torch.equal(latent[0], latent[2]) and latent[0].dtype == torch.float32
    assert torch.equal(terms[0][1], terms[1][1])
    assert terms[0][0] != terms[1][0] and torch.allclose(terms[0][0], terms[1][0], rtol=0.02)
    assert half.classify(images).dtype == torch.float32


def test_at_any_pose_the_loss_is_that_of_images_posed_by_the_prior(images, labels):
    plain = build("flow", False, "rotation")
    posing = AtAnyPose(plain.classifier, plain.q, plain.family, original=False)
    torch.manual_seed(1)
    loss = posing.loss(images, labels, 0.3, samples=2)
    torch.manual_seed(1)
    posed = plain.family.warp(images, plain.prior(images).sample())
    assert torch.equal(loss, plain.loss(posed, labels, 0.3, samples=2))
    assert not torch.allclose(posed, images)


def test_a_pose_learner_pays_for_what_q_says_of_the_way_back(images, labels):
    plain = build("flow", family="rotation")
    learner = PoseLearner(plain.classifier, plain.q, plain.family)
    torch.manual_seed(1)
    loss = learner.loss(images, labels, alpha=0.3)
    torch.manual_seed(1)
    S = plain.prior(images).sample()
    of_q = plain.q(plain.family.warp(images, S)).log_prob(-S)
    of_f = cross_entropy(plain.classifier(images), labels)
    assert loss.item() == pytest.approx((of_f - of_q.mean()).item(), rel=1e-5)
    torch.manual_seed(1)
    assert torch.equal(learner.loss(images, labels, alpha=3.0), loss)


def test_a_pose_learner_teaches_each_part_by_its_own_term(images, labels):
    """No gradient of q comes from labels, and none of the classifier's from poses."""
    plain = build("flow", family="rotation")
    learner = PoseLearner(plain.classifier, plain.q, plain.family)

    def gradients(labels):
        torch.manual_seed(1)
        loss = learner.loss(images, labels)
        return [
            torch.autograd.grad(loss, list(m.parameters())) for m in (plain.q, plain.classifier)
        ]

    (q, f), (q_other, f_other) = gradients(labels), gradients(labels.roll(1))
    torch.manual_seed(1)
    alone = cross_entropy(plain.classifier(images), labels)
    expected = torch.autograd.grad(alone, list(plain.classifier.parameters()))
    assert all(torch.allclose(a, b) for a, b in zip(q, q_other))
    assert not all(torch.allclose(a, b) for a, b in zip(f, f_other))
    assert all(torch.allclose(a, b) for a, b in zip(f, expected))


@pytest.mark.parametrize("family", ["rotation", "rotation_translation", "affine"])
def test_the_opposite_coefficients_lead_back(family):
    family = FAMILIES[family]
    T = 2 * torch.rand(20, family.dim) - 1
    back = compose(family.matrix(T), family.matrix(-T))
    assert torch.allclose(back, torch.eye(2, 3).expand(20, 2, 3), atol=1e-3)


def test_a_pose_learner_refuses_maps_that_the_opposite_does_not_undo():
    with pytest.raises(ValueError, match="where −T undoes T, got Crop"):
        PoseLearner.build("flow", "crop", 1, classes=5)
