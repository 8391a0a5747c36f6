"""Laws of the data: whole and right, or a clear word and nothing half written."""

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

from flowinv.data import catalogue as data
from flowinv.transforms import FAMILIES


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWINV_DATA", str(tmp_path))
    return tmp_path


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
    monkeypatch.setitem(
        data.SHA256, "mnist", tuple(data._sha256(arrays[key]) for key in data.ARRAYS)
    )
    return arrays


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **options):
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "MNIST", refuse)


def test_the_sample_is_balanced_and_scaled():
    digits = data.load("mnist", sample=True).joined()
    assert digits.train.images.shape == (10000, 1, 28, 28) and digits.test.images.shape == (
        2000,
        1,
        28,
        28,
    )
    assert torch.bincount(digits.train.labels).tolist() == [1000] * 10
    assert digits.train.images.min() == 0 and digits.train.images.max() == 1
    assert "embedded sample" in str(digits)


def test_only_renumbers_the_classes_it_keeps():
    digits = data.load("mnist", sample=True).joined()
    some = digits.only([6, 1])
    assert some.classes == ("6", "1") and len(some.train.labels) == 2000
    assert torch.equal(
        some.test.images[some.test.labels == 0], digits.test.images[digits.test.labels == 6]
    )
    with pytest.raises(ValueError, match="classes: expected numbers from 0 to 9"):
        digits.only([11])


def test_a_cached_file_is_read(cache, small):
    np.savez_compressed(cache / "mnist.npz", **small)
    digits = data.load("mnist").joined()
    assert (digits.train.images[:, 0] * 255).round().byte().numpy().tolist() == small[
        "train_images"
    ].tolist()
    assert str(digits).startswith("MNIST: 30 training and 20 test images of 10 classes")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("where", [0.1, 0.4, 0.9])
def test_a_file_changed_by_one_byte_is_refused(cache, small, save, where):
    path = cache / "mnist.npz"
    save(path, **small)
    content = bytearray(path.read_bytes())
    content[int(len(content) * where)] ^= 1
    path.write_bytes(content)
    with pytest.raises(data.DataError, match="is damaged .*delete the file") as error:
        data.load("mnist")
    assert "\n" not in str(error.value)


def test_arrays_that_are_whole_but_wrong_are_refused(cache, small):
    small["test_images"][7, 3, 3] ^= 1
    np.savez(cache / "mnist.npz", **small)
    with pytest.raises(data.DataError, match="test_images has SHA-256"):
        data.load("mnist")


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_file_cut_short_is_refused(cache, small, share):
    path = cache / "mnist.npz"
    np.savez(path, **small)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(data.DataError, match="is damaged") as error:
        data.load("mnist")
    assert "\n" not in str(error.value)


def test_a_file_mended_after_an_error_is_read(cache, small):
    path = cache / "mnist.npz"
    path.write_bytes(b"nonsense")
    with pytest.raises(data.DataError):
        data.load("mnist")
    np.savez(path, **small)
    data.load("mnist")


def test_nothing_is_unpickled(cache, small):
    small["train_labels"] = np.array([{"a": 1}], dtype=object)
    np.savez(cache / "mnist.npz", **small)
    with pytest.raises(data.DataError, match="is damaged"):
        data.load("mnist")


def test_without_network_the_error_names_the_file_the_ways_and_the_sample(cache, no_network):
    with pytest.raises(data.DataError) as error:
        data.load("mnist")
    message = str(error.value)
    assert "\n" not in message
    for part in (
        str(cache / "mnist.npz"),
        "no route to host",
        "with a network",
        "copy mnist.npz",
        "sample=True",
    ):
        assert part in message
    assert list(cache.iterdir()) == []


def test_a_download_is_checked_and_cached(cache, small, monkeypatch):
    class Fake:
        def __init__(self, root, train, download):
            split = "train" if train else "test"
            self.data = torch.from_numpy(small[f"{split}_images"])
            self.targets = torch.from_numpy(small[f"{split}_labels"]).long()

    monkeypatch.setattr(torchvision.datasets, "MNIST", Fake)
    digits = data.load("mnist")
    assert [p.name for p in cache.iterdir()] == ["mnist.npz"]
    monkeypatch.delattr(torchvision.datasets, "MNIST")  # the second time the cache is enough
    assert torch.equal(data.load("mnist").train.images, digits.train.images)


def test_a_download_that_is_not_what_it_should_be_is_not_cached(cache, small, monkeypatch):
    class Fake:
        def __init__(self, root, train, download):
            self.data, self.targets = (
                torch.zeros(30, 28, 28, dtype=torch.uint8),
                torch.zeros(30, dtype=torch.int64),
            )

    monkeypatch.setattr(torchvision.datasets, "MNIST", Fake)
    with pytest.raises(data.DataError, match="SHA-256"):
        data.load("mnist")
    assert list(cache.iterdir()) == []


def test_an_unknown_data_set_and_a_missing_sample_are_named(cache):
    with pytest.raises(
        ValueError, match="unknown data set 'emnist': expected one of mnist, fashion_mnist, cifar10"
    ):
        data.load("emnist")
    with pytest.raises(
        data.DataError, match="fashion_mnist has no embedded sample.*or one of mnist, cifar10"
    ):
        data.load("fashion_mnist", sample=True)


@pytest.mark.parametrize("name", list(data.SAMPLE_SHA256))
@pytest.mark.skipif(
    not all(data.cache_file(name).exists() for name in data.SAMPLE_SHA256),
    reason="needs MNIST and CIFAR-10 in the cache",
)
def test_the_sample_is_drawn_from_the_full_set(name):
    drawn = data.draw_sample(name)
    assert tuple(data._sha256(drawn[key]) for key in data.ARRAYS) == data.SAMPLE_SHA256[name]


def test_a_sample_is_read_as_it_was_written(tmp_path, monkeypatch):
    """Colour images as lossless sheets: 100 tiles in two rows of 50."""
    rng = np.random.default_rng(0)
    images = np.broadcast_to(
        rng.integers(0, 256, (200, 1, 1, 3), np.uint8), (200, 32, 32, 3)
    ).copy()
    images[:, 3, 5:9] = 7
    labels = rng.integers(0, 10, 200, np.uint8)
    arrays = dict(zip(data.ARRAYS, (images[:100], labels[:100], images[100:], labels[100:])))
    monkeypatch.setattr(data, "draw_sample", lambda name: dict(arrays))
    monkeypatch.setattr(data, "SAMPLES", tmp_path)
    monkeypatch.setitem(
        data.SAMPLE_SHA256, "cifar10", tuple(data.write_sample("cifar10", tmp_path))
    )
    read = data.load("cifar10", sample=True).joined()
    assert torch.equal(
        (read.train.images * 255).round().byte().permute(0, 2, 3, 1), torch.from_numpy(images[:100])
    )
    (tmp_path / "cifar10-test_images.webp").unlink()
    data._read.cache_clear()
    with pytest.raises(data.DataError, match="install flowinv again"):
        data.load("cifar10", sample=True)


def same(a, b):
    """Whether two data sets hold the same images, labels and angles, and say the same."""
    for split in ("train", "validation", "test"):
        for kind in ("images", "labels", "angles"):
            x, y = (getattr(getattr(data, split), kind) for data in (a, b))
            if not (x is y is None or torch.equal(x, y)):
                return False
    return str(a) == str(b)


def test_a_tenth_of_the_training_images_is_held_out_and_comes_back_to_its_places(cache, small):
    np.savez(cache / "mnist.npz", **small)
    digits = data.load("mnist")
    pixels = (torch.cat([digits.train.images, digits.validation.images]) * 255).round().byte()
    whole = torch.from_numpy(small["train_images"])[:, None]
    assert len(digits.validation) == 3 and len(digits.train) == 27
    assert "27 training, 3 validation and 20 test images" in str(digits)
    assert torch.equal(pixels.flatten(1).unique(dim=0), whole.flatten(1).unique(dim=0))
    joined = digits.joined()
    assert torch.equal((joined.train.images * 255).round().byte(), whole)
    assert joined.train.labels.tolist() == small["train_labels"].tolist()
    assert len(joined.validation) == 0 and same(joined.held_out(), digits)
    assert same(joined.joined(), joined)
    assert not same(joined.held_out(seed=1), digits)
    with pytest.raises(ValueError, match=r"expected a share in \[0, 1\)"):
        digits.held_out(1.0)


@pytest.mark.parametrize(
    "change",
    [
        lambda digits: digits.rotated(),
        lambda digits: digits.only([6, 1]),
        lambda digits: digits.only([6, 1]).rotated(50).rotated(20, seed=1),
    ],
)
def test_a_version_of_the_data_is_the_same_whether_joined_before_or_after(change):
    digits = data.load("mnist", sample=True).first(400, 100)
    assert len(digits.validation) == 45
    assert same(change(digits).joined(), change(digits.joined()))


def test_colour_images_of_the_sample_are_channels_first():
    sample = data.load("cifar10", sample=True).joined()
    assert sample.train.images.shape == (2000, 3, 32, 32) and sample.test.images.shape == (
        1000,
        3,
        32,
        32,
    )
    assert torch.bincount(sample.test.labels).tolist() == [100] * 10
    sky = sample.train.images[sample.train.labels == 0][..., :4, :].mean((0, 2, 3))
    assert sky[2] > sky[0] + 0.03  # above aeroplanes it is more blue than red


def test_cifar10_is_read_from_the_version_without_pickles(cache, monkeypatch):
    """One label, then red, green and blue planes: a tar of six files in that format, made here."""
    rng = np.random.default_rng(0)
    images, labels = (
        rng.integers(0, 256, (60, 32, 32, 3), np.uint8),
        rng.integers(0, 10, 60, np.uint8),
    )
    arrays = dict(zip(data.ARRAYS, (images[:50], labels[:50], images[50:], labels[50:])))
    monkeypatch.setitem(
        data.SHA256, "cifar10", tuple(data._sha256(arrays[key]) for key in data.ARRAYS)
    )

    def download(url, folder, filename):
        assert url.endswith("cifar-10-binary.tar.gz")
        with tarfile.open(Path(folder) / filename, "w:gz") as tar:
            for i, name in enumerate([f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]):
                part = slice(10 * i, 10 * i + 10)
                planes = images[part].transpose(0, 3, 1, 2).reshape(10, -1)
                raw = np.concatenate([labels[part, None], planes], 1).tobytes()
                member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
                member.size = len(raw)
                tar.addfile(member, io.BytesIO(raw))

    monkeypatch.setattr(data, "download_url", download)
    loaded = data.load("cifar10")
    assert torch.equal(
        (loaded.test.images * 255).round().byte().permute(0, 2, 3, 1), torch.from_numpy(images[50:])
    )
    assert loaded.classes[3] == "cat" and (cache / "cifar10.npz").exists()
    monkeypatch.setattr(
        data, "download_url", lambda *args: (Path(args[1]) / args[2]).write_bytes(b"not a tar")
    )
    (cache / "cifar10.npz").unlink()
    with pytest.raises(data.DataError, match="CIFAR-10 could not be downloaded"):
        data.load("cifar10")
    assert list(cache.iterdir()) == []


def test_a_long_tail_falls_evenly_in_its_logarithm_and_is_fixed_by_its_seed():
    digits = data.load("mnist", sample=True).joined()
    tail = digits.long_tail(ratio=10)
    sizes = tail.train.labels.bincount().double()
    assert sizes[0] == 1000 and sizes[-1] == 100
    assert torch.allclose(sizes[1:] / sizes[:-1], torch.tensor(10 ** (-1 / 9)).double(), atol=0.01)
    assert torch.equal(tail.test.images, digits.test.images)
    assert torch.equal(tail.train.images, digits.long_tail().train.images)
    assert not torch.equal(tail.train.images[:100], digits.long_tail(seed=1).train.images[:100])
    with pytest.raises(ValueError, match="expected a ratio of 1 or more"):
        digits.long_tail(0.5)


def test_rotations_are_fixed_by_their_seed_and_known():
    ones = data.load("mnist", sample=True).joined().only([1])
    turned = ones.rotated(90)
    again = FAMILIES["rotation"].warp(turned.test.images, -turned.test.angles[:, None] / 180)
    assert (
        (again - ones.test.images).abs().mean()
        < 0.02
        < (turned.test.images - ones.test.images).abs().mean()
    )
    assert turned.train.angles.abs().max() <= 90 and turned.train.angles.std() > 40
    assert torch.equal(turned.train.images, ones.rotated(90).train.images)
    assert not torch.equal(turned.train.angles, ones.rotated(90, seed=1).train.angles)
    assert torch.equal(turned.only([0]).test.angles, turned.test.angles)
    twice = turned.rotated(180, seed=2)
    again = FAMILIES["rotation"].warp(twice.test.images, -twice.test.angles[:, None] / 180)
    assert (again - ones.test.images).abs().mean() < 0.03 and twice.test.angles.abs().max() <= 180
    with pytest.raises(ValueError, match=r"expected degrees in \(0, 180\]"):
        ones.rotated(0)
    assert str(ones.rotated()).startswith("MNIST (embedded sample), rotated by up to ±180°: 1,000")
    with pytest.raises(ValueError, match="and two classes"):
        ones.long_tail()


@pytest.fixture
def folder(tmp_path):
    """Two classes, red and blue, of pictures that are not square."""
    for split, count in (("train", 3), ("test", 2)):
        for name, colour in (("blue", (0, 0, 255)), ("red", (255, 0, 0))):
            (tmp_path / "own" / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (60, 40), colour).save(
                    tmp_path / "own" / split / name / f"{i}.png"
                )
    return tmp_path / "own"


def test_a_folder_of_images_is_a_data_set(folder):
    own = data.load_folder(folder, size=24).joined()
    assert (
        own.train.images.shape == (6, 3, 24, 24)
        and own.classes == ("blue", "red")
        and own.title == "own"
    )
    assert own.test.labels.tolist() == [0, 0, 1, 1]
    assert torch.equal(own.test.images[2].amax((1, 2)), torch.tensor([1.0, 0, 0]))


def test_a_folder_that_is_none_is_a_one_line_error(folder):
    (folder / "test" / "red" / "0.png").write_text("no image")
    with pytest.raises(data.DataError, match="test is not a folder of images") as error:
        data.load_folder(folder)
    assert "\n" not in str(error.value)
    shutil.rmtree(folder / "test" / "red")
    with pytest.raises(data.DataError, match="expected the same classes in train"):
        data.load_folder(folder)
    shutil.rmtree(folder / "test")
    with pytest.raises(data.DataError, match="put them in .*/test/<class>/"):
        data.load_folder(folder)
