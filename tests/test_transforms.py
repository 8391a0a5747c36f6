"""Laws of the transformation families and of the warp."""

import kornia
import pytest
import torch

from flowinv import transforms
from flowinv.transforms import FAMILIES, GENERATORS, compose, warp

EVERY = pytest.mark.parametrize("name", list(FAMILIES))
LIE = pytest.mark.parametrize("name", [name for name in FAMILIES if name != "crop"])


@LIE
def test_zero_is_the_identity_and_every_generator_is_felt_there(name, images):
    family = FAMILIES[name]
    T = torch.zeros(8, family.dim, requires_grad=True)
    identity = torch.eye(2, 3)
    assert torch.equal(family.matrix(T), identity.expand(8, 2, 3))
    assert torch.allclose(family.warp(images, T), images, atol=1e-6)
    derivative = torch.autograd.functional.jacobian(
        family.matrix, torch.zeros(family.dim, dtype=torch.float64)
    )
    assert torch.allclose(derivative.movedim(-1, 0), family.generators[:, :2])


@LIE
def test_matrix_is_the_exponential_of_the_weighted_generators(name):
    family = FAMILIES[name]
    T = torch.rand(50, family.dim, dtype=torch.float64) * 2 - 1
    T[0] *= 1e-9  # where the closed form divides by an angle
    T[1:9] = T[1:9].sign()  # and the box's corners
    A = sum(
        T[:, d, None, None] * torch.tensor(GENERATORS[n], dtype=torch.float64)
        for d, n in enumerate(family.names)
    )
    assert torch.allclose(family.matrix(T), torch.linalg.matrix_exp(A)[:, :2], atol=1e-12)


@LIE
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
        assert torch.allclose(closed, exact, atol=2e-4)


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
    expected = kornia.geometry.transform.homography_warp(
        images.double(), M, (28, 28), align_corners=False
    )
    assert torch.allclose(family.warp(images.double(), T), expected, atol=1e-9)


@EVERY
def test_warp_equals_affine_grid_and_grid_sample(name):
    """Pictures and gradients, in float64; and in the images' precision whatever autocast says."""
    family = FAMILIES[name]
    images = torch.rand(5, 3, 12, 12, dtype=torch.float64, requires_grad=True)
    T = (torch.rand(4, 5, family.dim, dtype=torch.float64) * 2 - 1).requires_grad_()
    grid = torch.nn.functional.affine_grid(
        family.matrix(T).flatten(0, 1), [20, 3, 12, 12], align_corners=False
    )
    expected = torch.nn.functional.grid_sample(
        images.repeat(4, 1, 1, 1), grid, align_corners=False
    ).view(4, 5, 3, 12, 12)
    warped = family.warp(images, T)
    assert torch.allclose(warped, expected, atol=1e-12)
    weights = torch.randn_like(warped)
    pairs = zip(
        *(torch.autograd.grad((x * weights).sum(), (images, T)) for x in (warped, expected))
    )
    assert all(torch.allclose(ours, theirs, atol=1e-9) for ours, theirs in pairs)
    images, T = images.detach().float(), T.detach().float()
    with torch.autocast("cpu", torch.bfloat16):
        half = family.warp(images, T)
    assert torch.equal(half, family.warp(images, T))


@EVERY
def test_gradients_agree_with_finite_differences(name):
    images = torch.rand(2, 1, 5, 5, dtype=torch.float64) * 0.8 + 0.1
    T = 0.37 * torch.rand(3, 2, FAMILIES[name].dim, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x, T: FAMILIES[name].warp(x, T, validate=False),
        (images.requires_grad_(), T.requires_grad_()),
        eps=1e-7,
    )


def test_maps_compose_in_the_order_they_are_applied(images):
    """On quarter turns and whole pixels, where warping is exact: A_b(A_a(I)) = I(M(a) M(b) p)."""
    family = FAMILIES["rotation_translation"]
    a, b = (family.matrix(torch.tensor(T).expand(8, 3)) for T in ([0, 0, 0.5], [0.5, 0.25, 0]))
    images = images * torch.nn.functional.pad(
        torch.ones(14, 14), (7, 7, 7, 7)
    )  # so that nothing leaves
    for first, second in ((a, b), (b, a)):
        assert torch.allclose(
            warp(images, compose(first, second)), warp(warp(images, first), second), atol=1e-5
        )
    assert not torch.allclose(compose(a, b), compose(b, a), atol=0.1)


def test_maps_of_a_group_compose_to_maps_of_it():
    """Two turns make one by the sum of the angles, whatever family describes them."""
    turn = lambda angle: FAMILIES["rotation"].matrix(torch.tensor([angle]))  # noqa: E731
    assert torch.allclose(compose(turn(0.3), turn(0.9)), turn(-0.8), atol=1e-6)
    for r in (-0.7, 0.2, 1.0):
        ridge = FAMILIES["rotation_discovery"].matrix(torch.tensor([-r, r]))
        entries = FAMILIES["decoupled"].matrix(torch.tensor([0, -r, 0, r, 0, 0]))
        assert torch.allclose(ridge, turn(r), atol=1e-5) and torch.allclose(
            entries, turn(r), atol=1e-5
        )


def test_a_similarity_turns_and_scales():
    matrix = FAMILIES["similarity"].matrix(torch.tensor([0, 0, 0.3, -0.4], dtype=torch.float64))
    turn = FAMILIES["rotation"].matrix(torch.tensor([0.3], dtype=torch.float64))
    assert torch.allclose(matrix, torch.e**-0.2 * turn)


def test_an_angle_of_180_degrees_is_one_of_minus_180():
    """One map for rotations and scale; beside a shift, the turn is one and the shift the opposite."""
    for name in ("rotation", "rotation_translation", "similarity"):
        family = FAMILIES[name]
        angle = family.names.index("rotation")
        assert [d for d in range(family.dim) if family.angles[d]] == [angle]
        assert any(family.periodic) == (name == "rotation")  # only there whatever the others are
        T = torch.zeros(2, family.dim, dtype=torch.float64)
        T[:, angle] = torch.tensor([1.0, -1.0])
        if name == "similarity":
            T[:, 3] = 0.7
        assert torch.allclose(*family.matrix(T), atol=1e-12)
    T = torch.tensor([[0.3, -0.2, 1.0], [-0.3, 0.2, -1.0]], dtype=torch.float64)
    assert torch.allclose(*FAMILIES["rotation_translation"].matrix(T), atol=1e-12)


def test_the_exponential_holds_for_sums_of_many_steps():
    """Beyond the box, where adding coefficients can lead: norms up to 20."""
    T = 6 * (2 * torch.rand(200, 4, dtype=torch.float64) - 1)
    A = torch.einsum("nd,dij->nij", T, FAMILIES["similarity"].generators)
    expected = torch.linalg.matrix_exp(A)[:, :2]
    assert torch.allclose(FAMILIES["similarity"].matrix(T), expected, rtol=1e-6, atol=1e-6)
    single = FAMILIES["similarity"].matrix(T.float()).double()
    assert torch.allclose(single, expected, rtol=1e-3, atol=1e-3)


def test_training_after_a_first_look_in_inference_mode():
    transforms._generators.cache_clear()
    with torch.inference_mode():
        FAMILIES["affine"].matrix(torch.zeros(1, 6))
    T = torch.zeros(1, 6, requires_grad=True)
    FAMILIES["affine"].matrix(T).sum().backward()
    assert T.grad.abs().sum() > 0


def test_a_crop_never_leaves_the_picture_and_can_be_any_part_of_it():
    family = FAMILIES["crop"]
    T = torch.rand(2000, 4, dtype=torch.float64) * 2 - 1
    T[:16] = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 2)
    M = family.matrix(T)
    seen = torch.einsum("nij,kj->nki", M[..., :2], corners) + M[:, None, :, 2]
    assert seen.abs().max() <= 1 + 1e-12
    assert torch.allclose(
        M[:, [0, 1], [0, 1]].aminmax().min, torch.tensor(family.MIN_SIZE).double()
    )
    # An eighth of the picture's side, if it were allowed, could sit anywhere: the edges are reached.
    assert seen.min() == pytest.approx(-1) and seen.max() == pytest.approx(1)


def test_a_crop_stays_inside_a_picture_that_is_not_square():
    white = torch.ones(16, 1, 40, 64)
    T = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4)
    assert (
        FAMILIES["crop"].warp(white, T).min() >= 0.25
    )  # at the very edge half of a pixel, each way


def test_a_crop_shows_the_part_it_names_and_its_identity_feels_width_and_height():
    family = FAMILIES["crop"]
    assert torch.equal(family.matrix(family.identity), torch.eye(2, 3))
    size = (
        1 + 2 * torch.tensor(0.5).log() / -torch.tensor(family.MIN_SIZE).log()
    )  # half of the side
    picture = torch.rand(1, 1, 8, 8)
    upper_right = family.warp(picture, torch.tensor([[1.0, -1.0, size, size]]))
    enlarged = torch.nn.functional.interpolate(picture[..., :4, 4:], size=8, mode="bilinear")
    assert torch.allclose(upper_right[..., 1:7, 1:7], enlarged[..., 1:7, 1:7], atol=1e-5)
    derivative = torch.autograd.functional.jacobian(family.matrix, family.identity)
    felt = derivative.abs().sum((0, 1)) > 0
    assert felt.tolist() == [
        False,
        False,
        True,
        True,
    ]  # a crop that fills the picture has no room to move
    derivative = torch.autograd.functional.jacobian(family.matrix, torch.zeros(4))
    assert (derivative.abs().sum((0, 1)) > 0).all()


def test_samples_and_batch_are_independent(images):
    family = FAMILIES["affine"]
    T = torch.rand(3, 8, 6) - 0.5
    together = family.warp(images, T)
    for s in range(3):
        for b in range(8):
            assert torch.allclose(
                together[s, b], family.warp(images[b : b + 1], T[s, b : b + 1])[0], atol=1e-4
            )


def test_a_rotation_is_rigid_in_pixels_when_the_picture_is_not_square():
    disc = (torch.arange(40)[:, None] - 19.5) ** 2 + (torch.arange(64) - 31.5) ** 2 < 100
    disc = disc[None, None].float()
    turned = FAMILIES["rotation"].warp(disc, torch.tensor([[0.23]]))
    assert (turned - disc).abs().mean() < 0.01
    assert torch.allclose(FAMILIES["rotation"].warp(disc, torch.tensor([[1.0]])), disc, atol=1e-4)


def test_a_picture_that_is_not_square_is_warped_like_its_padded_square():
    picture = torch.zeros(1, 1, 64, 64)
    picture[..., 12:52, :] = torch.nn.functional.interpolate(
        torch.rand(1, 1, 5, 8), size=(40, 64), mode="bilinear"
    )
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
    with pytest.raises(
        ValueError, match="unknown family 'rotations': expected one of rotation, translation"
    ):
        FAMILIES["rotations"]
