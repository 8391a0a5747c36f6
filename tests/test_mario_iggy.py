"""Laws of Mario-Iggy: poses, angles and labels agree, and the pictures are what the title says."""

from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

from flowinv.bases import wrap
from flowinv.data import DataError, mario_iggy, mario_poses
from flowinv.data import sprites as module
from flowinv.transforms import FAMILIES


@pytest.fixture
def originals(monkeypatch):
    """Two pictures that stand in for Mario and Iggy, with their sums in place."""
    pictures = {
        name: np.random.default_rng(i).random((1, 3, 32, 32))
        for i, name in enumerate(("mario", "iggy"))
    }
    for name, picture in pictures.items():
        monkeypatch.setitem(module.SHA256, name, module_sum(picture))
    return pictures


def module_sum(array):
    import hashlib

    return hashlib.sha256(array.tobytes()).hexdigest()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWINV_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


def off_pose(data, modes):
    """How far each test image stands from the nearest pose of its class, in degrees."""
    poses = mario_poses(modes)[data.test.labels]
    return 180 * wrap((data.test.angles[:, None] - poses) / 180).abs().amin(1)


@pytest.mark.parametrize(("degrees", "modes"), [(45, 1), (90, 1), (30, 3), (45, 2)])
def test_every_image_is_its_picture_turned_within_reach_of_a_pose_of_its_class(degrees, modes):
    data = mario_iggy(degrees, modes, train=50, test=2000, sample=True)
    off = off_pose(data, modes)
    assert off.max() <= degrees + 1e-3 and off.mean().item() == pytest.approx(degrees / 2, rel=0.1)
    assert data.test.labels.bincount().tolist() == [500] * 4
    sprites, _, _ = module._sprites()
    again = FAMILIES["rotation"].warp(data.test.images, -data.test.angles[:, None] / 180)
    assert (again - sprites[data.test.labels // 2]).abs().mean() < 0.03


@pytest.mark.parametrize("modes", [1, 2, 3, 4])
def test_poses_of_upright_and_upside_down_alternate_round_the_circle(modes):
    poses = mario_poses(modes)
    assert torch.equal(poses[0], poses[2]) and torch.equal(poses[1], poses[3])
    both = torch.cat([poses[0], poses[1]]).sort().values
    assert (
        torch.allclose(both.diff(), torch.full((2 * modes - 1,), 180 / modes))
        and (both.abs() <= 180).all()
    )
    assert 0 in poses[0] and (modes % 2 == 0 or 180 in poses[1])


def test_the_seed_fixes_it_all():
    first, again, other = (
        mario_iggy(train=40, test=20, seed=seed, sample=True) for seed in (0, 0, 1)
    )
    assert torch.equal(first.train.images, again.train.images) and torch.equal(
        first.test.labels, again.test.labels
    )
    assert not torch.equal(first.train.angles, other.train.angles)


def test_the_sprites_are_two_and_upside_down_they_are_others():
    sprites, _, _ = module._sprites()
    assert sprites.shape == (2, 3, 32, 32) and 0 <= sprites.min() and sprites.max() <= 1
    poses = torch.cat([sprites, sprites.rot90(2, (2, 3))])
    differences = (poses[:, None] - poses[None]).abs().mean((2, 3, 4)) + torch.eye(4)
    assert differences.min() > 0.03
    assert (
        sprites[..., 0, :].max() < 0.1 and sprites[..., 0, :2].max() == 0
    )  # nothing is lost in the corners


def test_originals_come_from_the_cache(cache, originals):
    cache.mkdir()
    np.savez(cache / "mario_iggy.npz", **originals)
    data = mario_iggy(train=10, test=10)
    assert (
        str(data).startswith("Mario-Iggy (original images), ±45°: 10 training")
        and data.classes[0] == "Mario up"
    )
    np.savez(cache / "mario_iggy.npz", mario=originals["mario"] + 1e-9, iggy=originals["iggy"])
    with pytest.raises(
        DataError, match="mario_iggy.npz is damaged .mario has SHA-256.*delete the file"
    ):
        mario_iggy(train=10, test=10)


def test_originals_are_downloaded_checked_and_cached(cache, originals, monkeypatch):
    def download(url, folder, filename):
        assert url == module.URL
        np.savez(Path(folder) / filename, **originals)

    monkeypatch.setattr(module, "download_url", download)
    assert "original images" in mario_iggy(train=10, test=10).title
    assert [p.name for p in cache.iterdir()] == ["mario_iggy.npz"]


def test_a_download_that_is_not_what_it_should_be_is_not_taken(cache, monkeypatch):
    monkeypatch.setattr(
        module,
        "download_url",
        lambda url, folder, name: np.savez(Path(folder) / name, mario=np.ones(3), iggy=np.ones(3)),
    )
    with pytest.raises(DataError, match="the download is not what it should be"):
        mario_iggy(train=10, test=10)
    assert list(cache.iterdir()) == []


def test_without_network_the_sprites_stand_in_and_the_title_says_so(cache, monkeypatch):
    def refuse(*args):
        raise URLError("no route to host")

    monkeypatch.setattr(module, "download_url", refuse)
    data = mario_iggy(train=10, test=10)
    assert "this project's sprites" in str(data) and data.classes[0] == "rocket up"


def test_what_cannot_be_is_a_one_line_error():
    for bad in ({"modes": 0}, {"degrees": 0}, {"degrees": 31, "modes": 3}, {"train": 0}):
        with pytest.raises(
            ValueError, match="mario_iggy: expected modes, train and test of 1 or more"
        ) as error:
            mario_iggy(**bad, sample=True)
        assert "\n" not in str(error.value)
