"""Laws of the transformation families and of the warp."""

import kornia
import pytest
import torch

from flowinv.transforms import FAMILIES, GENERATORS

EVERY = pytest.mark.parametrize("name", list(FAMILIES))


@EVERY
def test_zero_is_the_identity_and_every_generator_is_felt_there(name, images):
    family = FAMILIES[name]
    T = torch.zeros(8, family.dim, requires_grad=True)
    identity = torch.eye(2, 3)
    assert torch.equal(family.matrix(T), identity.expand(8, 2, 3))
    assert torch.allclose(family.warp(images, T), images, atol=1e-6)
    derivative = torch.autograd.functional.jacobian(family.matrix, torch.zeros(family.dim, dtype=torch.float64))
    assert torch.allclose(derivative.movedim(-1, 0), family.generators[:, :2])


@EVERY
def test_matrix_is_the_exponential_of_the_weighted_generators(name):
    family = FAMILIES[name]
    T = torch.rand(50, family.dim, dtype=torch.float64) * 2 - 1
    T[0] *= 1e-9  # where the closed form divides by an angle
    A = sum(T[:, d, None, None] * torch.tensor(GENERATORS[n], dtype=torch.float64) for d, n in enumerate(family.names))
    assert torch.allclose(family.matrix(T), torch.linalg.matrix_exp(A)[:, :2], atol=1e-12)


@EVERY
def test_one_parameter_subgroups_compose(name):
    """M(a T) M(b T) = M((a + b) T)."""
    family = FAMILIES[name]
    T = torch.rand(20, family.dim, dtype=torch.float64) * 2 - 1

    def square(M):
        return torch.cat([M, M.new_tensor([0, 0, 1]).expand(*M.shape[:-2], 1, 3)], -2)

    product = square(family.matrix(0.3 * T)) @ square(family.matrix(0.5 * T))
    assert torch.allclose(product[..., :2, :], family.matrix(0.8 * T), atol=1e-12)


def test_gradient_of_the_closed_form_near_zero_is_that_of_the_exponential():
    family = FAMILIES["rotation_translation"]
    general = FAMILIES["affine"]
    for size in (0, 1e-7, 1e-3, 0.3):
        T = torch.tensor([0.4, -0.7, size], requires_grad=True)
        full = torch.cat([T, torch.zeros(3)])
        weights = torch.randn(2, 3)
        closed = torch.autograd.grad((family.matrix(T) * weights).sum(), T)[0]
        exact = torch.autograd.grad((general.matrix(full) * weights).sum(), T)[0]
        assert torch.allclose(closed, exact, atol=2e-2 if size == 1e-7 else 1e-4)


def test_a_positive_rotation_turns_the_picture_counter_clockwise():
    picture = torch.rand(1, 1, 6, 6)
    quarter = FAMILIES["rotation"].warp(picture, torch.tensor([[0.5]]))
    assert torch.allclose(quarter, torch.rot90(picture, 1, (2, 3)), atol=1e-5)


def test_a_positive_translation_moves_the_picture_left_and_up_by_half_pictures():
    picture = torch.rand(1, 1, 8, 8)
    moved = FAMILIES["translation"].warp(picture, torch.tensor([[0.25, 0.5]]))
    expected = torch.zeros_like(picture)
    expected[..., :6, :7] = picture[..., 2:, 1:]  # a quarter of 4 pixels in x, a half in y
    assert torch.allclose(moved, expected, atol=1e-6)


def test_a_positive_scale_makes_the_picture_smaller_and_a_stretch_narrower():
    picture = torch.zeros(1, 1, 32, 32)
    picture[..., 8:24, 8:24] = 1
    smaller, narrower = FAMILIES["affine"].warp(picture, torch.eye(6)[3:5, None])
    assert smaller.sum() == pytest.approx(256 * torch.e**-1, rel=0.1)
    assert narrower[0, 0].amax(0).sum() < 11 and narrower[0, 0].amax(1).sum() > 24


@EVERY
def test_warp_equals_kornia(name, images):
    family = FAMILIES[name]
    T = torch.rand(8, family.dim, dtype=torch.float64) * 2 - 1
    M = torch.cat([family.matrix(T), torch.tensor([[[0, 0, 1.0]]]).expand(8, 1, 3)], 1)
    expected = kornia.geometry.transform.homography_warp(images.double(), M, (28, 28), align_corners=False)
    assert torch.allclose(family.warp(images.double(), T), expected, atol=1e-9)


@EVERY
def test_gradients_agree_with_finite_differences(name):
    images = torch.rand(2, 1, 5, 5, dtype=torch.float64) * 0.8 + 0.1
    T = 0.37 * torch.rand(3, 2, FAMILIES[name].dim, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x, T: FAMILIES[name].warp(x, T, validate=False), (images.requires_grad_(), T.requires_grad_()), eps=1e-7
    )


def test_samples_and_batch_are_independent(images):
    family = FAMILIES["affine"]
    T = torch.rand(3, 8, 6) - 0.5
    together = family.warp(images, T)
    for s in range(3):
        for b in range(8):
            assert torch.allclose(together[s, b], family.warp(images[b : b + 1], T[s, b : b + 1])[0], atol=1e-4)


def test_a_rotation_is_rigid_in_pixels_when_the_picture_is_not_square():
    disc = (torch.arange(40)[:, None] - 19.5) ** 2 + (torch.arange(64) - 31.5) ** 2 < 100
    disc = disc[None, None].float()
    turned = FAMILIES["rotation"].warp(disc, torch.tensor([[0.23]]))
    assert (turned - disc).abs().mean() < 0.01
    assert torch.allclose(FAMILIES["rotation"].warp(disc, torch.tensor([[1.0]])), disc, atol=1e-4)


def test_a_picture_that_is_not_square_is_warped_like_its_padded_square():
    picture = torch.zeros(1, 1, 64, 64)
    picture[..., 12:52, :] = torch.nn.functional.interpolate(torch.rand(1, 1, 5, 8), size=(40, 64), mode="bilinear")
    for name in ("rotation_translation", "affine"):
        T = 0.4 * torch.rand(1, FAMILIES[name].dim)
        square = FAMILIES[name].warp(picture, T)[..., 12:52, :]
        assert torch.allclose(FAMILIES[name].warp(picture[..., 12:52, :], T), square, atol=1e-4)


@pytest.mark.parametrize(
    ("images", "T", "message"),
    [
        (torch.zeros(2, 28, 28), torch.zeros(2, 1), r"expected a tensor \(B, C, H, W\)"),
        (torch.zeros(2, 1, 28, 28, dtype=torch.uint8), torch.zeros(2, 1), "expected floats"),
        (torch.full((2, 1, 28, 28), 255.0), torch.zeros(2, 1), r"expected values in \[0, 1\]"),
        (torch.full((2, 1, 28, 28), torch.nan), torch.zeros(2, 1), "NaN"),
        (torch.zeros(2, 1, 28, 28), torch.zeros(3, 1), "expected shape"),
        (torch.zeros(2, 1, 28, 28), torch.zeros(2, 2), "expected shape"),
        (torch.zeros(2, 1, 28, 28), torch.full((2, 1), 1.01), "in the box"),
        (torch.zeros(2, 1, 28, 28), torch.full((2, 1), torch.nan), "in the box"),
    ],
)
def test_bad_input_is_a_one_line_error(images, T, message):
    with pytest.raises(ValueError, match=message) as error:
        FAMILIES["rotation"].warp(images, T)
    assert "\n" not in str(error.value)


def test_an_unknown_family_is_named_together_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown family 'rotations': expected one of rotation, translation"):
        FAMILIES["rotations"]
