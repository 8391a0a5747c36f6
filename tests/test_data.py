"""Laws of the data: whole and right, or a clear word and nothing half written; and turns known."""

import io
import shutil
import tarfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from flowinv import data
from flowinv.data import DataError, Dataset, Split, catalogue, mario_iggy, mario_poses, sprites
from flowinv.transforms import FAMILIES

rotation = FAMILIES["rotation"]


def as_bytes(images):
    """What was loaded, in a file's bytes and order of axes."""
    return (images * 255).round().byte().permute(0, 2, 3, 1).numpy()


def sums(arrays):
    return tuple(catalogue.sha256(arrays[key]) for key in catalogue.ARRAYS)


def turned_by(angles):
    """Angles by their size: −350° and 10° are one turn."""
    return (180 - (180 - angles) % 360).abs()


def turned_back(split):
    return rotation.warp(split.images, -split.angles[:, None] / 180)


def same(a, b):
    """Whether two data sets hold the same images, labels and angles, and say the same."""
    for split in ("train", "validation", "test"):
        one = getattr(a, split)
        other = getattr(b, split)
        if not torch.equal(one.images, other.images) or not torch.equal(one.labels, other.labels):
            return False
        if one.angles is not other.angles and not torch.equal(one.angles, other.angles):
            return False
    return str(a) == str(b)


@pytest.fixture
def digits():
    return data.load("mnist", sample=True).joined()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWINV_DATA", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.fixture
def small(monkeypatch):
    """Arrays that stand in for MNIST, and their sums in its place."""
    rng = np.random.default_rng(0)
    arrays = {
        "train_images": rng.integers(0, 256, (30, 28, 28), np.uint8),
        "train_labels": np.arange(30, dtype=np.uint8) % 10,
        "test_images": rng.integers(0, 256, (20, 28, 28), np.uint8),
        "test_labels": np.arange(20, dtype=np.uint8) % 10,
    }
    monkeypatch.setitem(catalogue.SHA256, "mnist", sums(arrays))
    return arrays


@pytest.fixture
def photos(monkeypatch):
    """Arrays that stand in for CIFAR-10: few colours, so that the sheets are small."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (200, 1, 1, 3), np.uint8).repeat(32, 1).repeat(32, 2)
    images[:, 3, 5:9] = 7
    labels = rng.integers(0, 10, 200, np.uint8)
    parts = (images[:100], labels[:100], images[100:], labels[100:])
    arrays = dict(zip(catalogue.ARRAYS, parts))
    monkeypatch.setitem(catalogue.SHA256, "cifar10", sums(arrays))
    return arrays


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **options):
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "MNIST", refuse)
    monkeypatch.setattr(sprites, "download_url", refuse)


def mnist_of(arrays):
    """What torchvision would give for a download of these arrays."""

    class Fake:
        def __init__(self, root, train, download):
            split = "train" if train else "test"
            self.data = torch.from_numpy(arrays[f"{split}_images"])
            self.targets = torch.from_numpy(arrays[f"{split}_labels"]).long()

    return Fake


# The catalogue: the cache, downloads and samples.


def test_a_cached_file_is_read(cache, small):
    np.savez_compressed(cache / "mnist.npz", **small)
    read = data.load("mnist").joined()
    assert np.array_equal(as_bytes(read.train.images)[..., 0], small["train_images"])
    assert np.array_equal(read.test.labels, small["test_labels"])
    assert str(read).startswith("MNIST: 30 training and 20 test images of 10 classes (0, 1,")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("where", [0.1, 0.4, 0.9])
def test_a_file_changed_by_one_byte_is_refused(cache, small, save, where):
    path = cache / "mnist.npz"
    save(path, **small)
    content = bytearray(path.read_bytes())
    content[int(len(content) * where)] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="is damaged .*delete the file") as error:
        data.load("mnist")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_file_cut_short_is_refused(cache, small, share):
    path = cache / "mnist.npz"
    np.savez(path, **small)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match="is damaged") as error:
        data.load("mnist")
    assert "\n" not in str(error.value)


def test_arrays_that_are_whole_but_wrong_are_refused_until_the_file_is_mended(cache, small):
    path = cache / "mnist.npz"
    wrong = small["test_images"].copy()
    wrong[7, 3, 3] ^= 1
    np.savez(path, **small | {"test_images": wrong})
    with pytest.raises(DataError, match="test_images has SHA-256"):
        data.load("mnist")
    np.savez(path, **small)
    data.load("mnist")


def test_nothing_is_unpickled(cache, small):
    small["train_labels"] = np.array([{"a": 1}], dtype=object)
    np.savez(cache / "mnist.npz", **small)
    with pytest.raises(DataError, match="is damaged"):
        data.load("mnist")


def test_without_network_the_error_names_the_file_the_ways_and_the_sample(cache, no_network):
    with pytest.raises(DataError) as error:
        data.load("mnist")
    message = str(error.value)
    assert "\n" not in message
    assert f"{cache / 'mnist.npz'} is missing" in message and "no route to host" in message
    for way in ("with a network", "copy mnist.npz", "sample=True"):
        assert way in message
    assert list(cache.iterdir()) == []


def test_a_download_is_checked_and_cached(cache, small, monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "MNIST", mnist_of(small))
    first = data.load("mnist")
    assert [p.name for p in cache.iterdir()] == ["mnist.npz"]
    monkeypatch.delattr(torchvision.datasets, "MNIST")  # the second time the cache is enough
    assert same(data.load("mnist"), first)


def test_a_download_that_is_not_what_it_should_be_is_not_cached(cache, small, monkeypatch):
    wrong = small | {"test_labels": small["test_labels"][::-1].copy()}
    monkeypatch.setattr(torchvision.datasets, "MNIST", mnist_of(wrong))
    with pytest.raises(DataError, match="SHA-256.*the download is not what it should be"):
        data.load("mnist")
    assert list(cache.iterdir()) == []


def test_cifar10_is_read_from_the_version_without_pickles(cache, photos, monkeypatch):
    """One label, then red, green and blue planes: a tar of six files in that format, made here."""
    names = [f"data_batch_{i}" for i in range(1, 6)]
    parts = dict(zip(names, range(0, 100, 20))) | {"test_batch": 100}
    images = np.concatenate([photos["train_images"], photos["test_images"]])
    labels = np.concatenate([photos["train_labels"], photos["test_labels"]])

    def download(url, folder, filename):
        assert url.endswith("cifar-10-binary.tar.gz")
        with tarfile.open(Path(folder) / filename, "w:gz") as tar:
            for name, start in parts.items():
                part = slice(start, 200 if name == "test_batch" else start + 20)
                planes = images[part].transpose(0, 3, 1, 2).reshape(-1, 3 * 32 * 32)
                raw = np.concatenate([labels[part, None], planes], 1).tobytes()
                member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
                member.size = len(raw)
                tar.addfile(member, io.BytesIO(raw))

    monkeypatch.setattr(catalogue, "download_url", download)
    loaded = data.load("cifar10").joined()
    assert np.array_equal(as_bytes(loaded.train.images), photos["train_images"])
    assert np.array_equal(as_bytes(loaded.test.images), photos["test_images"])
    assert loaded.classes[3] == "cat" and [p.name for p in cache.iterdir()] == ["cifar10.npz"]


def test_a_download_that_is_no_archive_is_not_cached(cache, monkeypatch):
    def download(url, folder, filename):
        (Path(folder) / filename).write_bytes(b"not a tar")

    monkeypatch.setattr(catalogue, "download_url", download)
    with pytest.raises(DataError, match="CIFAR-10 could not be downloaded"):
        data.load("cifar10")
    assert list(cache.iterdir()) == []


def test_an_unknown_data_set_and_a_missing_sample_are_named(cache):
    with pytest.raises(ValueError, match="'emnist': expected one of mnist, fashion_mnist, cifar10"):
        data.load("emnist")
    with pytest.raises(DataError, match="no embedded sample.*or one of mnist, cifar10"):
        data.load("fashion_mnist", sample=True)


@pytest.mark.parametrize(
    ("name", "shape", "train", "test"),
    [("mnist", (1, 28, 28), 1000, 200), ("cifar10", (3, 32, 32), 200, 100)],
)
def test_the_sample_is_balanced_and_scaled(name, shape, train, test):
    sample = data.load(name, sample=True).joined()
    assert sample.train.labels.bincount().tolist() == [train] * 10
    assert sample.test.labels.bincount().tolist() == [test] * 10
    assert sample.train.images.shape == (10 * train, *shape)
    assert sample.train.images.min() == 0 and sample.train.images.max() == 1
    assert "embedded sample" in str(sample)


def test_colour_images_are_channels_first():
    train = data.load("cifar10", sample=True).train
    sky = train.images[train.labels == 0][..., :4, :].mean((0, 2, 3))
    assert sky[2] > sky[0] + 0.03  # above aeroplanes it is more blue than red


@pytest.mark.parametrize("name", list(catalogue.SAMPLE_SHA256))
@pytest.mark.skipif(
    not all(data.cache_file(name).exists() for name in catalogue.SAMPLE_SHA256),
    reason="needs MNIST and CIFAR-10 in the cache",
)
def test_the_sample_is_drawn_from_the_full_set(name):
    assert sums(catalogue.draw_sample(name)) == catalogue.SAMPLE_SHA256[name]


def test_a_sample_is_read_as_it_was_written(tmp_path, photos, monkeypatch):
    """Colour images as lossless sheets: 100 tiles in two rows of 50."""
    monkeypatch.setattr(catalogue, "draw_sample", lambda name: dict(photos))
    monkeypatch.setattr(catalogue, "SAMPLES", tmp_path)
    written = catalogue.write_sample("cifar10", tmp_path)
    monkeypatch.setitem(catalogue.SAMPLE_SHA256, "cifar10", written)
    read = data.load("cifar10", sample=True).joined()
    assert np.array_equal(as_bytes(read.train.images), photos["train_images"])
    (tmp_path / "cifar10-test_images.webp").unlink()
    catalogue._read.cache_clear()
    with pytest.raises(DataError, match="install flowinv again"):
        data.load("cifar10", sample=True)


@pytest.fixture
def folder(tmp_path):
    """Two classes, red and blue, of pictures that are not square."""
    for split, count in (("train", 5), ("test", 2)):
        for name in ("blue", "red"):
            (tmp_path / "own" / split / name).mkdir(parents=True)
            for i in range(count):
                path = tmp_path / "own" / split / name / f"{i}.png"
                Image.new("RGB", (60, 40), name).save(path)
    return tmp_path / "own"


def test_a_folder_of_images_is_a_data_set(folder):
    own = data.load_folder(folder, size=24)
    assert str(own) == "own: 9 training, 1 validation and 4 test images of 2 classes (blue, red)"
    assert own.train.images.shape == (9, 3, 24, 24)
    assert own.joined().train.labels.tolist() == [0] * 5 + [1] * 5
    assert torch.equal(own.test.images[2].amax((1, 2)), torch.tensor([1.0, 0, 0]))


def test_a_folder_of_validation_images_is_used_and_joins_at_the_end(folder):
    shutil.copytree(folder / "test", folder / "validation")
    own = data.load_folder(folder, size=24)
    assert len(own.train) == 10 and torch.equal(own.validation.images, own.test.images)
    joined = own.joined().train
    assert torch.equal(joined.images[:10], own.train.images)
    assert torch.equal(joined.images[10:], own.test.images)


def test_a_folder_is_read_when_it_is_asked_for(folder, monkeypatch):
    """Finding, splitting and choosing classes opens nothing; items and `images` do."""
    opened = []
    open_image = Image.open
    monkeypatch.setattr(Image, "open", lambda path: opened.append(path) or open_image(path))
    own = data.load_folder(folder, size=24).joined().held_out(0.2).only([1])
    assert not opened and "Split of 5 images (3, 24, 24) in files" == repr(own.train)
    image, label = own.train[0]
    assert len(opened) == 1 and label == 0 and image.dtype == torch.uint8
    assert torch.equal(own.train.images[0], image / 255) and len(opened) == 6
    assert own.train.images is own.train.images and len(opened) == 6


def test_images_in_files_are_the_middle_or_all_of_each_upright(tmp_path):
    """Red left, blue right; and the same photo as a camera lays it, on its side."""
    picture = Image.new("RGB", (60, 20), "red")
    picture.paste(Image.new("RGB", (30, 20), "blue"), (30, 0))
    picture.save(tmp_path / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    picture.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "b.png", exif=exif)
    for name in "ab":
        (middle,) = data.ImageFiles([tmp_path / f"{name}.png"], size=20)
        (whole,) = data.ImageFiles([tmp_path / f"{name}.png"], size=30, pad=True)
        red, blue = torch.tensor([[255, 0, 0], [0, 0, 255]])[:, :, None, None]
        assert (middle[:, :, :9] == red).all() and (middle[:, :, 11:] == blue).all()
        assert (whole[:, 10:20, :13] == red).all() and (whole[:, 10:20, 17:] == blue).all()
        assert not whole[:, :10].any() and not whole[:, 20:].any()
    assert data.ImageFiles([tmp_path / "a.png"], 20, channels=1)[:1].read().shape == (1, 1, 20, 20)


def test_a_folder_that_is_none_is_a_one_line_error(folder):
    def refused(message, **options):
        with pytest.raises((DataError, ValueError), match=message) as error:
            data.load_folder(folder, **options)
        assert "\n" not in str(error.value)

    refused("size: expected 1 or more pixels, got 0", size=0)
    (folder / "test" / "green").mkdir()
    refused("Found no valid file for the classes green.*remove folders without images")
    (folder / "test" / "green").rmdir()
    (folder / "test" / "red").rename(folder / "test" / "rouge")
    refused("test has rouge that train has not, and lacks red")
    shutil.rmtree(folder / "test" / "rouge")
    refused("test has nothing that train has not, and lacks red: rename")
    shutil.rmtree(folder / "test")
    refused("put them in .*/test/<class>/")


DAMAGE = {
    "no image": lambda path: path.write_text("no image"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_broken_file_is_named_or_left_out(folder, damage, suffix):
    """When it is asked for, or before anything is done, or with a warning."""
    path = folder / "train" / "red" / f"7.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(path)
    assert len(data.load_folder(folder, broken="refuse").joined().train) == 11
    DAMAGE[damage](path)
    own = data.load_folder(folder).joined()
    with pytest.raises(DataError, match=rf"7.{suffix} is no readable image .*broken='skip'") as one:
        own.train.images  # noqa: B018
    with pytest.raises(DataError, match=rf"train: 1 of 11 files .*red/7.{suffix}") as other:
        data.load_folder(folder, broken="refuse")
    assert "\n" not in str(one.value) + str(other.value)
    with pytest.warns(data.DataWarning, match=rf"1 of 11 files are left out.*red/7.{suffix}"):
        left = data.load_folder(folder, broken="skip")
    assert left.joined().train.images.shape == (10, 3, 32, 32)


def test_a_class_of_broken_files_alone_is_refused(folder):
    for path in (folder / "test" / "red").iterdir():
        path.write_text("no image")
    with pytest.warns(data.DataWarning), pytest.raises(DataError, match="no image of 1 classes"):
        data.load_folder(folder, broken="skip")


# A data set and its splits.


def test_a_split_unpacks_into_images_and_labels_and_picks_all_that_it_has():
    split = Split(torch.rand(4, 1, 2, 2), torch.arange(4), angles=torch.arange(4.0))
    images, labels = split
    assert images is split.images and labels is split.labels and len(split) == 4
    for index in (slice(1, 3), torch.tensor([1, 2]), torch.tensor([False, True, True, False])):
        part = split[index]
        assert torch.equal(part.images, split.images[1:3])
        assert part.labels.tolist() == part.angles.tolist() == [1, 2]
    assert torch.equal(split[2][0], split.images[2]) and split[2][1] == 2
    with pytest.raises(ValueError, match="labels: expected as many as images, 4, got 3"):
        Split(images, labels[:3])


def test_a_tenth_of_the_training_images_is_held_out_and_returns_to_its_places(cache, small):
    np.savez(cache / "mnist.npz", **small)
    split = data.load("mnist")
    assert len(split.train) == 27 and len(split.validation) == 3
    assert "27 training, 3 validation and 20 test images" in str(split)
    joined = split.joined()
    assert np.array_equal(as_bytes(joined.train.images)[..., 0], small["train_images"])
    assert np.array_equal(joined.train.labels, small["train_labels"])
    assert len(joined.validation) == 0 and same(joined.joined(), joined)
    assert same(joined.held_out(), split) and same(split.held_out(), split)
    assert not same(joined.held_out(seed=1), split)
    with pytest.raises(ValueError, match=r"expected a share in \[0, 1\)"):
        joined.held_out(1.0)


@pytest.mark.parametrize(
    "change",
    [Dataset.rotated, lambda d: d.only([6, 1]), lambda d: d.only([6, 1]).rotated(50).rotated(20)],
)
def test_versions_are_the_same_whether_validation_is_joined_before_or_after(change):
    split = data.load("mnist", sample=True).first(400, 100)
    assert same(change(split).joined(), change(split.joined()))


def test_only_renumbers_the_classes_it_keeps(digits):
    some = digits.only([6, 1])
    assert some.classes == ("6", "1") and len(some.train) == 2000
    sixes = digits.test.images[digits.test.labels == 6]
    assert torch.equal(some.test.images[some.test.labels == 0], sixes)
    with pytest.raises(ValueError, match="classes: expected numbers from 0 to 9"):
        digits.only([11])


def test_the_first_images_are_taken_of_every_split():
    split = data.load("mnist", sample=True)
    few = split.first(900, 50)
    assert len(few.validation) == 100 and "the first 900 and 50" in few.title
    for name in ("train", "validation", "test"):
        part = getattr(few, name)
        assert torch.equal(part.images, getattr(split, name).images[: len(part)])
    with pytest.raises(ValueError, match="first: expected up to 9000 and 2000 images"):
        split.first(9001, 50)


def test_a_long_tail_falls_evenly_in_its_logarithm_and_is_fixed_by_its_seed(digits):
    tail = digits.long_tail(ratio=10)
    sizes = tail.train.labels.bincount().double()
    assert sizes[0] == 1000 and sizes[-1] == 100
    assert torch.allclose(sizes[1:] / sizes[:-1], torch.tensor(10 ** (-1 / 9)).double(), atol=0.01)
    assert same(tail, digits.long_tail())
    assert not same(tail, digits.long_tail(seed=1))
    with pytest.raises(ValueError, match="expected a ratio of 1 or more"):
        digits.long_tail(0.5)
    with pytest.raises(ValueError, match="and two classes"):
        digits.only([1]).long_tail()


def test_a_long_tail_leaves_validation_and_test_whole():
    split = data.load("mnist", sample=True)
    tail = split.long_tail()
    assert len(tail.train) < len(split.train) / 2
    assert tail.validation is split.validation and tail.test is split.test


def test_rotations_are_fixed_by_their_seed_and_known():
    ones = data.load("mnist", sample=True).only([1])
    turned = ones.rotated(90)
    for name in ("train", "validation", "test"):
        split = getattr(turned, name)
        before = getattr(ones, name).images
        assert (turned_back(split) - before).abs().mean() < 0.02
        assert (split.images - before).abs().mean() > 0.02
        assert split.angles.abs().max() <= 90 and split.angles.std() > 40
    assert same(turned, ones.rotated(90)) and not same(turned, ones.rotated(90, seed=1))
    twice = turned.rotated(180, seed=2).test
    assert (turned_back(twice) - ones.test.images).abs().mean() < 0.03
    assert twice.angles.abs().max() <= 180
    assert "rotated by up to ±90°" in str(turned)
    with pytest.raises(ValueError, match=r"expected degrees in \(0, 180\]"):
        ones.rotated(0)


# Mario-Iggy.


@pytest.fixture
def originals(monkeypatch):
    """Two pictures that stand in for Mario and Iggy, with their sums in place."""
    pictures = {}
    for seed, name in enumerate(("mario", "iggy")):
        pictures[name] = np.random.default_rng(seed).random((1, 3, 32, 32))
        monkeypatch.setitem(sprites.SHA256, name, catalogue.sha256(pictures[name]))
    return pictures


@pytest.mark.parametrize(("degrees", "modes"), [(45, 1), (90, 1), (30, 3), (45, 2)])
def test_every_image_is_its_picture_turned_within_reach_of_a_pose_of_its_class(degrees, modes):
    test = mario_iggy(degrees, modes, train=50, test=2000, sample=True).test
    off = turned_by(test.angles[:, None] - mario_poses(modes)[test.labels]).amin(1)
    assert off.max() <= degrees + 1e-3 and off.mean().item() == pytest.approx(degrees / 2, rel=0.1)
    assert test.labels.bincount().tolist() == [500] * 4
    upright = sprites._sprites().images[test.labels // 2]
    assert (turned_back(test) - upright).abs().mean() < 0.03


@pytest.mark.parametrize("modes", [1, 2, 3, 4])
def test_poses_of_upright_and_upside_down_alternate_round_the_circle(modes):
    poses = mario_poses(modes)
    assert torch.equal(poses[:2], poses[2:])
    both = poses[:2].flatten().sort().values
    assert torch.allclose(both.diff(), torch.full((2 * modes - 1,), 180 / modes))
    assert (both.abs() <= 180).all() and 0 in poses[0]
    owner = [pose.item() in poses[0].tolist() for pose in both]
    assert all(one != other for one, other in zip(owner, owner[1:]))


def test_the_seed_fixes_mario_iggy_and_validation_changes_nothing_else():
    first = mario_iggy(train=40, test=20, sample=True)
    assert same(first, mario_iggy(train=40, test=20, sample=True))
    assert not same(first, mario_iggy(train=40, test=20, seed=1, sample=True))
    more = mario_iggy(train=40, test=20, sample=True, validation=8)
    assert len(more.validation) == 8 and "40 training, 8 validation and 20 test" in str(more)
    assert torch.equal(more.train.images, first.train.images)
    assert torch.equal(more.test.images, first.test.images)


def test_the_sprites_are_two_and_upside_down_they_are_others():
    images = sprites._sprites().images
    assert images.shape == (2, 3, 32, 32) and 0 <= images.min() and images.max() <= 1
    poses = torch.cat([images, images.rot90(2, (2, 3))])
    differences = (poses[:, None] - poses[None]).abs().mean((2, 3, 4)) + torch.eye(4)
    assert differences.min() > 0.03
    # Nothing is lost in the corners.
    assert images[..., 0, :].max() < 0.1 and images[..., 0, :2].max() == 0


def test_originals_come_from_the_cache(cache, originals):
    np.savez(cache / "mario_iggy.npz", **originals)
    images = mario_iggy(train=10, test=10)
    assert str(images).startswith("Mario-Iggy (original images), ±45°: 10 training")
    assert images.classes[0] == "Mario up"
    np.savez(cache / "mario_iggy.npz", mario=originals["mario"] + 1e-9, iggy=originals["iggy"])
    with pytest.raises(DataError, match="is damaged .mario has SHA-256.*delete the file"):
        mario_iggy(train=10, test=10)


def test_originals_are_downloaded_checked_and_cached(cache, originals, monkeypatch):
    def download(url, folder, filename):
        assert url == sprites.URL
        np.savez(Path(folder) / filename, **originals)

    monkeypatch.setattr(sprites, "download_url", download)
    assert "original images" in mario_iggy(train=10, test=10).title
    assert [p.name for p in cache.iterdir()] == ["mario_iggy.npz"]


def test_originals_that_are_not_what_they_should_be_are_not_taken(cache, monkeypatch):
    def download(url, folder, filename):
        np.savez(Path(folder) / filename, mario=np.ones(3), iggy=np.ones(3))

    monkeypatch.setattr(sprites, "download_url", download)
    with pytest.raises(DataError, match="the download is not what it should be"):
        mario_iggy(train=10, test=10)
    assert list(cache.iterdir()) == []


def test_without_network_the_sprites_stand_in_and_the_title_says_so(cache, no_network):
    images = mario_iggy(train=10, test=10)
    assert "this project's sprites" in str(images) and images.classes[0] == "rocket up"


@pytest.mark.parametrize(
    "bad",
    [
        {"modes": 0},
        {"degrees": 0},
        {"degrees": 31, "modes": 3},
        {"train": 0},
        {"validation": -1},
    ],
)
def test_what_mario_iggy_cannot_be_is_a_one_line_error(bad):
    expected = "mario_iggy: expected modes, train and test of 1 or more"
    with pytest.raises(ValueError, match=expected) as error:
        mario_iggy(**bad, sample=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_of_sixteen_bits_become_eight(tmp_path, channels):
    """Pillow would cut off all above 255."""
    deep = np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    (image,) = data.ImageFiles([tmp_path / "deep.png"], 20, channels=channels)
    expected = torch.from_numpy(deep.astype(np.float32)) / 65535 * 255
    assert (image.float() - expected).abs().max() <= 1


def test_what_is_transparent_is_black(tmp_path):
    picture = np.full((20, 20, 4), 200, np.uint8)
    picture[..., 3] = 255
    picture[:10, :, 3] = 0
    Image.fromarray(picture).save(tmp_path / "half.png")
    (image,) = data.ImageFiles([tmp_path / "half.png"], 20)
    assert (image[:, :10] == 0).all() and (image[:, 10:] == 200).all()


def test_pixels_of_unknown_range_are_refused(tmp_path):
    Image.fromarray(np.ones((20, 20), np.float32)).save(tmp_path / "range.tiff")
    with pytest.raises(DataError, match="range.tiff is no readable image .*32 bits"):
        data.ImageFiles([tmp_path / "range.tiff"], 20)[0]


def test_a_number_of_numpy_names_one_image():
    split = data.load("mnist", sample=True).test
    image, label = split[np.int64(3)]
    assert torch.equal(image, split.images[3]) and label == split.labels[3]
