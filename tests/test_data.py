"""Laws of the data: whole and right, or a clear word and nothing half written."""

from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision

from flowinv import data


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
    monkeypatch.setitem(data.SHA256, "mnist", tuple(data._sha256(arrays[key]) for key in data.ARRAYS))
    return arrays


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **options):
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "MNIST", refuse)


def test_the_sample_is_balanced_and_scaled():
    digits = data.load("mnist", sample=True)
    assert digits.train_images.shape == (10000, 1, 28, 28) and digits.test_images.shape == (2000, 1, 28, 28)
    assert torch.bincount(digits.train_labels).tolist() == [1000] * 10
    assert digits.train_images.min() == 0 and digits.train_images.max() == 1
    assert "embedded sample" in str(digits)


def test_only_renumbers_the_classes_it_keeps():
    digits = data.load("mnist", sample=True)
    some = digits.only([6, 1])
    assert some.classes == ("6", "1") and len(some.train_labels) == 2000
    assert torch.equal(some.test_images[some.test_labels == 0], digits.test_images[digits.test_labels == 6])
    with pytest.raises(ValueError, match="classes: expected numbers from 0 to 9"):
        digits.only([11])


def test_a_cached_file_is_read(cache, small):
    np.savez_compressed(cache / "mnist.npz", **small)
    digits = data.load("mnist")
    assert (digits.train_images[:, 0] * 255).round().byte().numpy().tolist() == small["train_images"].tolist()
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
    for part in (str(cache / "mnist.npz"), "no route to host", "with a network", "copy mnist.npz", "sample=True"):
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
    assert torch.equal(data.load("mnist").train_images, digits.train_images)


def test_a_download_that_is_not_what_it_should_be_is_not_cached(cache, small, monkeypatch):
    class Fake:
        def __init__(self, root, train, download):
            self.data, self.targets = torch.zeros(30, 28, 28, dtype=torch.uint8), torch.zeros(30, dtype=torch.int64)

    monkeypatch.setattr(torchvision.datasets, "MNIST", Fake)
    with pytest.raises(data.DataError, match="SHA-256"):
        data.load("mnist")
    assert list(cache.iterdir()) == []


def test_an_unknown_data_set_is_named():
    with pytest.raises(ValueError, match="unknown data set 'emnist': expected one of mnist"):
        data.load("emnist")


@pytest.mark.skipif(not data.cache_file("mnist").exists(), reason="needs MNIST in the cache")
def test_the_sample_is_drawn_from_the_full_set():
    drawn, embedded = data.make_sample("mnist"), data.load("mnist", sample=True)
    assert (drawn["train_images"] == (embedded.train_images[:, 0] * 255).round().byte().numpy()).all()
