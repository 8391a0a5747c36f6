"""Laws of the guides: one interface, whatever the method."""

import math

import pytest
import torch

from flowinv.guides import GUIDES
from flowinv.transforms import FAMILIES


@pytest.mark.parametrize("name", list(GUIDES))
@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_guide_is_a_distribution_over_the_box_for_each_image(name, family, images):
    family = FAMILIES[family]
    q = GUIDES[name](family, 1)(images)
    assert q.batch_shape == (8,) and q.event_shape == (family.dim,)
    T = q.rsample((5,))
    assert T.shape == (5, 8, family.dim) and (T.abs() <= 1).all()
    assert q.log_prob(T).shape == (5, 8)


def test_no_augmentation_is_the_identity_and_the_fixed_box_is_the_box_it_was_given(images):
    family = FAMILIES["rotation_translation"]
    assert (GUIDES["none"](family, 1)(images).sample((10,)) == 0).all()
    T = GUIDES["fixed"](family, 1, half_width=[0.1, 0.2, 0.5])(images).sample((2000,))
    assert torch.allclose(T.abs().amax((0, 1)), torch.tensor([0.1, 0.2, 0.5]), rtol=1e-2)
    entropy = GUIDES["fixed"](family, 1, half_width=[0.1, 0.2, 0.5])(images).entropy()
    assert torch.allclose(entropy, torch.tensor(math.log(0.2 * 0.4 * 1.0)))


def test_the_flow_depends_on_the_image(images):
    guide = GUIDES["flow"](FAMILIES["rotation"], 1)
    with torch.no_grad():
        for parameter in guide.flow.parameters():
            parameter.normal_(0, 0.5)
        log_prob = guide(images).log_prob(torch.zeros(8, 1))
    assert log_prob.std() > 0.001


@pytest.mark.parametrize("name", list(GUIDES))
def test_images_that_are_not_images_are_a_one_line_error(name):
    for bad in (torch.zeros(1, 28, 28), torch.zeros(2, 1, 28, 28, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="images: expected") as error:
            GUIDES[name](FAMILIES["rotation"], 1)(bad)
        assert "\n" not in str(error.value)


def test_an_unknown_guide_and_a_box_too_wide_are_one_line_errors():
    with pytest.raises(ValueError, match="unknown guide 'flows': expected one of none, fixed, flow"):
        GUIDES["flows"]
    with pytest.raises(ValueError, match=r"expected numbers in \(0, 1\]"):
        GUIDES["fixed"](FAMILIES["rotation"], 1, half_width=2)
