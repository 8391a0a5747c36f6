"""Laws of the transformation families and of the warp."""

import kornia
import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms import functional as TF

from flowinv.transforms import (
    FAMILIES,
    GENERATORS,
    Colour,
    Crop,
    Elastic,
    Product,
    TransformFamily,
    compose,
    warp,
)
from flowinv.transforms.matrices import MatrixFamily


def every(kind):
    """Over the families of a kind, by name."""
    return pytest.mark.parametrize(
        "name", [name for name in FAMILIES if isinstance(FAMILIES[name], kind)]
    )


EVERY = pytest.mark.parametrize("name", list(FAMILIES))
MATRICES = every(MatrixFamily)
AFFINE = every((TransformFamily, Crop))
LIE = every(TransformFamily)


def in_box(*shape):
    """Coefficients anywhere in the box, in float64."""
    return 2 * torch.rand(*shape, dtype=torch.float64) - 1


def corners(dim):
    """The corners of the box [−1, 1]^dim."""
    edges = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    return torch.cartesian_prod(*[edges] * dim)


def square(M):
    """A map's matrix with its third row."""
    if M.shape[-2] == 3:
        return M
    third = M.new_tensor([0, 0, 1]).expand(*M.shape[:-2], 1, 3)
    return torch.cat([M, third], -2)


def turn(r):
    """The matrix of a rotation by r · 180 degrees."""
    return FAMILIES["rotation"].matrix(torch.tensor([r]))


@LIE
def test_zero_is_the_identity_and_every_generator_is_felt_there(name, images):
    family = FAMILIES[name]
    T = torch.zeros(8, family.dim)
    assert torch.equal(family.matrix(T), torch.eye(2, 3).expand(8, 2, 3))
    assert torch.allclose(family.warp(images, T), images, atol=1e-6)
    derivative = torch.autograd.functional.jacobian(family.matrix, T[0].double())
    assert torch.allclose(derivative.movedim(-1, 0), family.generators[:, :2])


@LIE
def test_matrix_is_the_exponential_of_the_weighted_generators(name):
    family = FAMILIES[name]
    T = in_box(50, family.dim)
    T[0] *= 1e-9  # where the closed form divides by an angle
    T = torch.cat([T, corners(family.dim).view(-1, family.dim)])
    A = torch.zeros(len(T), 3, 3, dtype=torch.float64)
    for d, coefficient in enumerate(family.names):
        generator = torch.tensor(GENERATORS[coefficient], dtype=torch.float64)
        A += T[:, d, None, None] * generator
    assert torch.allclose(family.matrix(T), torch.linalg.matrix_exp(A)[:, :2], atol=1e-12)


@LIE
def test_one_parameter_subgroups_compose(name):
    """M(a T) M(b T) = M((a + b) T)."""
    family = FAMILIES[name]
    T = in_box(20, family.dim)
    product = square(family.matrix(0.3 * T)) @ square(family.matrix(0.5 * T))
    assert torch.allclose(product, square(family.matrix(0.8 * T)), atol=1e-12)


@pytest.mark.parametrize("size", [0, 1e-7, 1e-3, 0.3])
def test_gradient_of_the_closed_form_near_zero_is_that_of_the_exponential(size):
    T = torch.tensor([0.4, -0.7, size], requires_grad=True)
    full = F.pad(T, (0, 3))  # the first three coefficients of the affine family are the same
    weights = torch.randn(2, 3)
    closed = FAMILIES["rotation_translation"].matrix(T) * weights
    general = FAMILIES["affine"].matrix(full) * weights
    (ours,) = torch.autograd.grad(closed.sum(), T)
    (expected,) = torch.autograd.grad(general.sum(), T)
    assert torch.allclose(ours, expected, atol=2e-4)


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
    scale, stretch = torch.eye(6)[3:5, None]
    smaller = FAMILIES["affine"].warp(picture, scale)
    assert smaller.sum() == pytest.approx(256 * torch.e**-1, rel=0.1)
    narrower = FAMILIES["affine"].warp(picture, stretch)[0, 0]
    assert narrower.amax(0).sum() < 11  # columns
    assert narrower.amax(1).sum() > 24  # rows


@MATRICES
def test_warp_equals_kornia(name, images):
    family = FAMILIES[name]
    images = images.double()
    T = in_box(8, family.dim)
    M = square(family.matrix(T))
    expected = kornia.geometry.transform.homography_warp(images, M, (28, 28), align_corners=False)
    assert torch.allclose(family.warp(images, T), expected, atol=1e-9)


@AFFINE
def test_warp_equals_affine_grid_and_grid_sample(name):
    """Pictures and gradients, in float64."""
    family = FAMILIES[name]
    images = torch.rand(5, 3, 12, 12, dtype=torch.float64, requires_grad=True)
    T = in_box(4, 5, family.dim).requires_grad_()
    matrices = family.matrix(T).flatten(0, 1)
    grid = F.affine_grid(matrices, [20, 3, 12, 12], align_corners=False)
    expected = F.grid_sample(images.repeat(4, 1, 1, 1), grid, align_corners=False)
    expected = expected.view(4, 5, 3, 12, 12)
    warped = family.warp(images, T)
    assert torch.allclose(warped, expected, atol=1e-12)
    weights = torch.randn_like(warped)
    ours = torch.autograd.grad((warped * weights).sum(), (images, T))
    theirs = torch.autograd.grad((expected * weights).sum(), (images, T))
    assert torch.allclose(ours[0], theirs[0], atol=1e-9)
    assert torch.allclose(ours[1], theirs[1], atol=1e-9)


@EVERY
def test_autocast_leaves_the_warp_alone(name, images):
    images = images.expand(-1, 3, -1, -1)
    T = in_box(8, FAMILIES[name].dim).float()
    with torch.autocast("cpu", torch.bfloat16):
        half = FAMILIES[name].warp(images, T)
    assert torch.equal(half, FAMILIES[name].warp(images, T))


@EVERY
def test_gradients_agree_with_finite_differences(name):
    images = torch.rand(2, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    T = 0.37 * torch.rand(3, 2, FAMILIES[name].dim, dtype=torch.float64)

    def warped(images, T):
        return FAMILIES[name].warp(images, T, validate=False)

    assert torch.autograd.gradcheck(warped, (images, T.requires_grad_()), eps=1e-7)


@EVERY
def test_the_warp_compiles_whole_and_stays_the_same(name):
    """From image to warped image in one graph, also for pictures that are not square."""
    torch.compiler.reset()  # there is a limit of compilations of one function
    family = FAMILIES[name]

    def warped(images, T):
        return family.warp(images, T, validate=False)

    images = torch.rand(2, 3, 8, 12, requires_grad=True)
    T = in_box(3, 2, family.dim).float().requires_grad_()
    weights = torch.rand(3, 2, 3, 8, 12)
    compiled = torch.compile(warped, fullgraph=True, backend="aot_eager")(images, T)
    eager = warped(images, T)
    assert torch.equal(compiled, eager)
    ours = torch.autograd.grad((compiled * weights).sum(), (images, T))
    theirs = torch.autograd.grad((eager * weights).sum(), (images, T))
    assert torch.allclose(ours[0], theirs[0], atol=1e-6)
    assert torch.allclose(ours[1], theirs[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_in_zero_to_one_stay_there(dtype):
    """Also white ones, where the rounded weights of four pixels can add up to more than 1."""
    white = torch.ones(50, 1, 33, 33, dtype=dtype)
    T = torch.linspace(-1, 1, 50, dtype=dtype)[:, None]
    turned = FAMILIES["rotation"].warp(white, T)
    assert turned.max() <= 1
    assert turned.max() == pytest.approx(1, abs=1e-6)
    again = FAMILIES["rotation"].warp(turned, T)  # which looks whether it got images in [0, 1]
    assert again.min() >= 0


def test_maps_compose_in_the_order_they_are_applied(images):
    """On quarter turns and whole pixels, where warping is exact: A_b(A_a(I)) = I(M(a) M(b) p)."""
    family = FAMILIES["rotation_translation"]
    a = family.matrix(torch.tensor([[0, 0, 0.5]]).expand(8, 3))
    b = family.matrix(torch.tensor([[0.5, 0.25, 0]]).expand(8, 3))
    images = images * F.pad(torch.ones(14, 14), (7, 7, 7, 7))  # so that nothing leaves
    for first, second in ((a, b), (b, a)):
        at_once = warp(images, compose(first, second))
        one_by_one = warp(warp(images, first), second)
        assert torch.allclose(at_once, one_by_one, atol=1e-5)
    assert not torch.allclose(compose(a, b), compose(b, a), atol=0.1)


@pytest.mark.parametrize("r", [-0.7, 0.2, 1.0])
def test_a_turn_is_the_same_map_in_every_family_that_has_it(r):
    ridge = FAMILIES["rotation_discovery"].matrix(torch.tensor([-r, r]))
    entries = FAMILIES["decoupled"].matrix(torch.tensor([0, -r, 0, r, 0, 0]))
    assert torch.allclose(ridge, turn(r), atol=1e-5)
    assert torch.allclose(entries, turn(r), atol=1e-5)


def test_turns_compose_to_the_turn_by_the_sum_of_their_angles():
    assert torch.allclose(compose(turn(0.3), turn(0.9)), turn(-0.8), atol=1e-6)


def test_a_similarity_turns_and_scales():
    matrix = FAMILIES["similarity"].matrix(torch.tensor([0, 0, 0.3, -0.4]))
    assert torch.allclose(matrix, torch.e**-0.2 * turn(0.3), atol=1e-6)


@pytest.mark.parametrize("name", ["rotation", "rotation_translation", "similarity"])
def test_an_angle_of_180_degrees_is_one_of_minus_180(name):
    family = FAMILIES[name]
    angle = family.names.index("rotation")
    assert [d for d in range(family.dim) if family.angles[d]] == [angle]
    T = torch.zeros(2, family.dim, dtype=torch.float64)
    T[:, angle] = torch.tensor([1.0, -1.0])
    if name == "similarity":
        T[:, 3] = 0.7
    there, back = family.matrix(T)
    assert torch.allclose(there, back, atol=1e-12)


@EVERY
def test_where_a_coefficient_is_periodic_its_ends_are_one_map(name, images):
    """Whatever the others are."""
    family = FAMILIES[name]
    images = images[:1].double().expand(1, 3, -1, -1)
    for d in range(family.dim):
        T = 0.5 * in_box(3, 1, family.dim)
        T[..., d] = 1
        there = family.warp(images, T)
        T[..., d] = -1
        same = torch.allclose(there, family.warp(images, T), atol=1e-9)
        assert same or not family.periodic[d]


def test_an_affine_angle_closes_the_circle_only_alone():
    """Beside a shift, the turn by −180 degrees is the one by 180 and the shift is the opposite."""
    assert {
        name: [one for one, wraps in zip(f.names, f.periodic) if wraps]
        for name, f in FAMILIES.items()
        if any(f.periodic)
    } == {
        "rotation": ["rotation"],
        "projective": ["roll"],
        "hue": ["hue"],
        "colour": ["hue"],
        "affine_colour": ["hue"],
    }
    T = torch.tensor([[0.3, -0.2, 1.0], [-0.3, 0.2, -1.0]], dtype=torch.float64)
    there, back = FAMILIES["rotation_translation"].matrix(T)
    assert torch.allclose(there, back, atol=1e-12)


def test_the_exponential_holds_for_sums_of_many_steps():
    """Beyond the box, where adding coefficients can lead: norms up to 20."""
    family = FAMILIES["similarity"]
    T = 6 * in_box(200, 4)
    A = torch.einsum("nd,dij->nij", T, family.generators)
    expected = torch.linalg.matrix_exp(A)[:, :2]
    assert torch.allclose(family.matrix(T), expected, rtol=1e-6, atol=1e-6)
    single = family.matrix(T.float()).double()
    assert torch.allclose(single, expected, rtol=1e-3, atol=1e-3)


def test_a_crop_never_leaves_the_picture_and_can_be_any_part_of_it():
    family = FAMILIES["crop"]
    T = torch.cat([corners(4), in_box(2000, 4)])
    M = family.matrix(T)
    seen = torch.einsum("nij,kj->nki", M[..., :2], corners(2)) + M[:, None, :, 2]
    assert seen.abs().max() <= 1 + 1e-12
    assert seen.min() == pytest.approx(-1)  # so the edges are reached
    assert seen.max() == pytest.approx(1)
    sizes = M[:, [0, 1], [0, 1]]
    assert sizes.min() == pytest.approx(family.MIN_SIZE)


def test_a_crop_stays_inside_a_picture_that_is_not_square():
    white = torch.ones(16, 1, 40, 64)
    shown = FAMILIES["crop"].warp(white, corners(4).float())
    assert shown.min() >= 0.25 - 1e-6  # at the very edge half of a pixel, each way


def test_a_crop_shows_the_part_it_names():
    family = FAMILIES["crop"]
    half = 1 - 2 * torch.log(torch.tensor(0.5)) / torch.log(torch.tensor(family.MIN_SIZE))
    picture = torch.rand(1, 1, 8, 8)
    upper_right = family.warp(picture, torch.tensor([[1.0, -1.0, half, half]]))
    enlarged = F.interpolate(picture[..., :4, 4:], size=8, mode="bilinear")
    inside = (..., slice(1, 7), slice(1, 7))  # away from the padding
    assert torch.allclose(upper_right[inside], enlarged[inside], atol=1e-5)


def test_the_whole_picture_as_a_crop_feels_width_and_height_but_has_no_room_to_move():
    family = FAMILIES["crop"]
    assert torch.equal(family.matrix(family.identity), torch.eye(2, 3))
    felt = torch.autograd.functional.jacobian(family.matrix, family.identity)
    assert felt.abs().amax((0, 1)).gt(0).tolist() == [False, False, True, True]
    felt = torch.autograd.functional.jacobian(family.matrix, torch.zeros(4))
    assert felt.abs().amax((0, 1)).gt(0).all()


@EVERY
def test_what_changes_nothing_is_the_identity(name, images):
    family = FAMILIES[name]
    images = images.expand(-1, 3, -1, -1)
    unchanged = family.warp(images, family.identity.expand(8, -1))
    assert torch.allclose(unchanged, images, atol=1e-5)
    if name in ("colour", "tone"):
        assert torch.equal(unchanged, images)


@EVERY
def test_every_coefficient_is_felt_and_what_is_in_zero_to_one_stays_there(name, images):
    family = FAMILIES[name]
    images = torch.stack([images[:, 0], images.flip(0)[:, 0], images.flip(-1)[:, 0]], 1)
    T = in_box(6, 8, family.dim).float().requires_grad_()
    changed = family.warp(images, T)
    assert changed.min() >= 0
    assert changed.max() <= 1
    (felt,) = torch.autograd.grad(changed.square().sum(), T)
    assert felt.isfinite().all()
    assert felt.abs().amax((0, 1)).gt(0).all()


def test_homographies_compose_and_have_inverses(images):
    family = FAMILIES["projective"]
    a, b = family.matrix(in_box(2, 50, 3))
    back = torch.linalg.inv(a)
    upright = torch.eye(3, dtype=torch.float64).expand(50, 3, 3)
    assert torch.allclose(compose(a, back), upright, atol=1e-10)
    smooth = F.interpolate(images.double(), 112, mode="bicubic").clamp(0, 1)
    a, b = family.matrix(0.3 * in_box(2, 8, 3))
    one_by_one = warp(warp(smooth, a), b)
    middle = (..., slice(36, 76), slice(36, 76))  # which neither takes from outside the picture
    right, wrong = (
        (warp(smooth, M) - one_by_one)[middle].abs().mean() for M in (compose(a, b), compose(b, a))
    )
    assert right < 1e-3  # what bilinear interpolation loses
    assert wrong > 5 * right


def test_a_homography_up_to_scale_is_one_map(images):
    M = FAMILIES["projective"].matrix(0.5 * in_box(8, 3))
    images = images.double()
    assert torch.allclose(warp(images, 1.7 * M), warp(images, M), atol=1e-12)


def test_a_card_tilted_away_is_seen_smaller_where_it_is_farther():
    white = torch.ones(1, 1, 64, 64)
    pitch, yaw, _ = torch.eye(3)[:, None]
    card = FAMILIES["projective"].warp(white, yaw)[0, 0]
    assert card[:, 46].sum() < card[:, 17].sum()  # its right edge is away
    card = FAMILIES["projective"].warp(white, pitch)[0, 0]
    assert card[17].sum() < card[46].sum()  # its upper edge
    roll = FAMILIES["projective"].warp(white, torch.tensor([[0.0, 0.0, 0.3]]))
    assert torch.allclose(roll, FAMILIES["rotation"].warp(white, torch.tensor([[0.3]])), atol=1e-5)


@pytest.mark.parametrize("n", [2, 4, 7])
def test_an_elastic_map_never_folds(n):
    """The determinant of its Jacobian, by automatic differentiation, at the worst corners too."""
    family = Elastic(n)
    T = torch.cat([in_box(30, family.dim), in_box(200, family.dim).sign()])
    p = (2 * torch.rand(100, 2, dtype=torch.float64) - 1).requires_grad_()
    least = 1.0
    for c in family.prepare(T):
        u = family.displacement(c, p[:, 0], p[:, 1]).diagonal(dim1=-2, dim2=-1)
        rows = [torch.autograd.grad(one.sum(), p, retain_graph=True)[0] for one in u]
        jacobian = torch.eye(2) + torch.stack(rows, -2)
        least = min(least, torch.linalg.det(jacobian).min().item())
    assert 0.1 <= least < 0.8


def test_an_elastic_map_moves_what_is_seen_to_the_left_and_up():
    spot = torch.zeros(1, 1, 33, 33)
    spot[..., 16, 16] = 1
    T = torch.zeros(2, 1, 32)
    T[0, :, :16] = T[1, :, 16:] = 0.5
    x, y = Elastic(4).warp(spot, T)[:, 0, 0]
    assert x.sum(0)[:16].sum() > 10 * x.sum(0)[16:].sum()
    assert y.sum(1)[:16].sum() > 10 * y.sum(1)[16:].sum()


@pytest.mark.parametrize(
    ("name", "theirs", "factor"),
    [
        ("brightness", TF.adjust_brightness, lambda T: 2**T),
        ("contrast", TF.adjust_contrast, lambda T: 2**T),
        ("saturation", TF.adjust_saturation, lambda T: 2**T),
        ("hue", TF.adjust_hue, lambda T: T / 2),
        ("gamma", TF.adjust_gamma, lambda T: 2**T),
    ],
)
@pytest.mark.parametrize("T", [-1.0, -0.3, 0.2, 0.9])
def test_colours_are_those_of_torchvision(name, theirs, factor, T):
    images = torch.rand(4, 3, 9, 9).clamp(min=1 / 256)
    ours = Colour(name).warp(images, torch.full((4, 1), T))
    # Theirs knows luma to four digits.
    assert torch.allclose(ours, theirs(images, factor(T)), atol=1e-3)


def test_a_colour_is_one_change_after_the_other(images):
    images = torch.rand(4, 3, 9, 9)
    T = in_box(4, 5).float()
    one_by_one = images
    for d, name in enumerate(FAMILIES["colour"].names):
        one_by_one = Colour(name).warp(one_by_one, T[:, d : d + 1])
    assert torch.equal(FAMILIES["colour"].warp(images, T), one_by_one)


def test_grey_images_have_no_hue_to_turn():
    with pytest.raises(ValueError, match="expected images of 3 channels, got 1"):
        FAMILIES["colour"].warp(torch.rand(2, 1, 8, 8), torch.zeros(2, 5))


def test_a_product_is_one_family_after_the_other(images):
    rotation, tone = FAMILIES["rotation"], FAMILIES["tone"]
    product = Product(rotation, tone)
    T = in_box(5, 8, 4).float()
    turned = rotation.warp(images, T[..., :1])
    expected = torch.stack([tone.warp(one, t) for one, t in zip(turned, T[..., 1:])])
    assert torch.allclose(product.warp(images, T), expected, atol=1e-6)
    assert torch.equal(product.identity, torch.zeros(4))
    assert product.angles == (True, False, False, False)


@EVERY
def test_samples_and_batch_are_independent(name, images):
    family = FAMILIES[name]
    images = images.expand(-1, 3, -1, -1)
    T = 0.5 * in_box(3, 8, family.dim).float()
    together = family.warp(images, T)
    for s in range(3):
        for b in range(8):
            (alone,) = family.warp(images[b : b + 1], T[s, b : b + 1])
            assert torch.allclose(together[s, b], alone, atol=1e-4)


def test_a_rotation_is_rigid_in_pixels_when_the_picture_is_not_square():
    y = torch.arange(40)[:, None] - 19.5
    x = torch.arange(64) - 31.5
    disc = (x**2 + y**2 < 100).float()[None, None]
    turned = FAMILIES["rotation"].warp(disc, torch.tensor([[0.23]]))
    assert (turned - disc).abs().mean() < 0.01
    turned = FAMILIES["rotation"].warp(disc, torch.tensor([[1.0]]))
    assert torch.allclose(turned, disc, atol=1e-4)


@pytest.mark.parametrize("name", ["rotation_translation", "affine"])
def test_a_picture_that_is_not_square_is_warped_like_its_padded_square(name):
    family = FAMILIES[name]
    picture = F.interpolate(torch.rand(1, 1, 5, 8), size=(40, 64), mode="bilinear")
    padded = F.pad(picture, (0, 0, 12, 12))
    T = 0.4 * torch.rand(1, family.dim)
    expected = family.warp(padded, T)[..., 12:52, :]
    assert torch.allclose(family.warp(picture, T), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("images", "T", "message"),
    [
        (torch.zeros(2, 28, 28), torch.zeros(2, 1), r"expected a tensor \(B, C, H, W\)"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(2, 1), "expected floats"),
        (torch.full((2, 1, 8, 8), 255.0), torch.zeros(2, 1), r"expected values in \[0, 1\]"),
        (torch.full((2, 1, 8, 8), torch.nan), torch.zeros(2, 1), "NaN"),
        (torch.zeros(2, 1, 8, 8), torch.zeros(3, 1), "expected shape"),
        (torch.zeros(2, 1, 8, 8), torch.zeros(2, 2), "expected shape"),
        (torch.zeros(2, 1, 8, 8), torch.full((2, 1), 1.01), "in the box"),
        (torch.zeros(2, 1, 8, 8), torch.full((2, 1), torch.nan), "in the box"),
    ],
)
def test_bad_input_is_a_one_line_error(images, T, message):
    with pytest.raises(ValueError, match=message) as error:
        FAMILIES["rotation"].warp(images, T)
    assert "\n" not in str(error.value)


def test_an_unknown_family_is_named_together_with_the_known_ones():
    message = "unknown family 'rotations': expected one of rotation, translation"
    with pytest.raises(ValueError, match=message):
        FAMILIES["rotations"]
