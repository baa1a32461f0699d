"""Volumes: files that keep the spacing, patches, and the removal of noise."""

import errno

import numpy as np
import pytest
import torch

from continuous_unet.base.errors import InputError
from continuous_unet.cli.main import main
from continuous_unet.data.clips.reading import read_clips
from continuous_unet.data.volumes import Volume, read_volume, write_volume
from continuous_unet.diffusion.options import FlowOptions, VariancePreservingOptions
from continuous_unet.images.patches import in_patches
from continuous_unet.tasks.video.volumes import denoise_volume
from tests.tasks.test_video import make_pipeline


def noisy(shape=(5, 20, 36)):
    return Volume(np.random.default_rng(0).normal(size=shape).astype(np.float32) * 100, (3.0, 0.5, 0.75))


@pytest.mark.parametrize("name", ["a.npz", "a.nii", "a.nii.gz"])
def test_files_keep_values_and_spacing(name, tmp_path):
    if ".nii" in name:
        pytest.importorskip("nibabel", reason="the nifti extra is not installed")
    volume = noisy()
    write_volume(volume, tmp_path / name)
    again = read_volume(tmp_path / name)
    assert np.array_equal(again.values, volume.values)
    assert again.spacing == volume.spacing
    assert [path.name for path in tmp_path.iterdir()] == [name]
    write_volume(again.with_values(-again.values), tmp_path / name)
    assert read_volume(tmp_path / name).spacing == volume.spacing


def test_a_nifti_file_keeps_its_place_and_is_learned_as_a_clip(tmp_path):
    nibabel = pytest.importorskip("nibabel", reason="the nifti extra is not installed")
    affine = np.array([[0.0, -2, 0, 5], [1, 0, 0, 6], [0, 0, 4, 7], [0, 0, 0, 1]])
    values = np.arange(4 * 6 * 8, dtype=np.int16).reshape(4, 6, 8)
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    assert np.array_equal(volume.values, values.transpose())
    assert volume.spacing == (4, 2, 1)
    write_volume(volume, tmp_path / "b.nii.gz")
    assert np.array_equal(nibabel.load(tmp_path / "b.nii.gz").affine, affine)
    (clip,), names = read_clips(str(tmp_path / "a.nii.gz"))
    assert names == ["a.nii.gz"]
    assert np.array_equal(clip[..., 0], (values.transpose() / values.max() * 255).round().astype(np.uint8))
    assert len(read_clips(str(tmp_path))[0]) == 2


def test_what_is_no_volume_is_refused(tmp_path):
    values = np.zeros((2, 3, 4), np.float32)
    values[0, 0, 0] = np.nan
    for arrays, message in (
        ({"volume": values}, r"1 value\(s\) that are not finite"),
        ({"volume": np.zeros((3, 4))}, "expected three dimensions"),
        ({"volume": np.zeros((2, 3, 4)), "spacing": np.array([1, 0, 1])}, "three numbers above 0"),
        ({"image": np.zeros((2, 3, 4))}, "expected an array named volume"),
    ):
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(InputError, match=message):
            read_volume(tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes(b"GIF89a, say")
    with pytest.raises(InputError, match=r"is not a NumPy archive"):
        read_volume(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", volume=np.array([None]))
    with pytest.raises(InputError, match="holds Python objects, which are not read"):
        read_volume(tmp_path / "a.npz")
    with pytest.raises(InputError, match="does not exist"):
        read_volume(tmp_path / "b.npz")
    with pytest.raises(InputError, match=r"ends in \.npz"):
        write_volume(noisy(), tmp_path / "a.png")


def test_a_volume_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    nibabel = pytest.importorskip("nibabel", reason="the nifti extra is not installed")

    def full(image, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(nibabel, "save", full)
    with pytest.raises(InputError, match="cannot be written"):
        write_volume(noisy(), tmp_path / "a.nii.gz")
    assert list(tmp_path.iterdir()) == []


def test_patches_make_the_volume_whole():
    """A function of single voxels gives the same in patches; one of the surroundings is called with multiples."""
    volumes, seen = torch.randn(2, 1, 5, 40, 70), []

    def function(piece):
        seen.append(tuple(piece.shape[2:]))
        return torch.cat([piece, piece.sin()], dim=1)

    made = in_patches(function, volumes, multiples=(2, 4, 4), patch=32, overlap=8)
    torch.testing.assert_close(made, torch.cat([volumes, volumes.sin()], dim=1))
    assert len(seen) == 6
    assert set(seen) <= {(6, h, w) for h in (16, 32) for w in (24, 32)}
    assert all(h % 4 == 0 and w % 4 == 0 for _, h, w in seen)
    with pytest.raises(InputError, match=r"expected \(B, C, D, H, W\)"):
        in_patches(function, volumes[0])
    with pytest.raises(InputError, match="twice the overlap"):
        in_patches(function, volumes, patch=16, overlap=12)


@pytest.mark.parametrize("process", [VariancePreservingOptions, FlowOptions])
def test_noise_is_removed_in_patches_as_in_the_whole(process):
    """The model sees each patch at the timestep of its noise; what patches change lies near their borders."""
    pipeline, volume = make_pipeline(process=process), noisy()
    whole = denoise_volume(pipeline, volume, 30.0, limits=(-400, 400), patch=64)
    again = denoise_volume(pipeline, volume, 30.0, limits=(-400, 400), patch=64, overlap=0)
    assert whole.spacing == volume.spacing
    assert np.array_equal(whole.values, again.values)
    parts = denoise_volume(pipeline, volume, 30.0, limits=(-400, 400), patch=16, overlap=8)
    assert 0 < np.abs(parts.values - whole.values).mean() < 0.1 * whole.values.std()
    # the strongest noise of flow matching leaves no signal, so that any sigma is weaker
    for sigma in (-1.0, 0.0):
        with pytest.raises(InputError, match="must be above 0"):
            denoise_volume(pipeline, volume, sigma)
    with pytest.raises(InputError, match="smaller one first"):
        denoise_volume(pipeline, volume, 1.0, limits=(1, 0))
    scaled = Volume(volume.values * 2 + 5, volume.spacing)
    same = denoise_volume(pipeline, scaled, 60.0, limits=(-795, 805), patch=64)
    np.testing.assert_allclose(same.values, whole.values * 2 + 5, atol=0.05)


def test_the_command_line_denoises_a_volume(tmp_path, capsys):
    pipeline, volume = make_pipeline(), noisy()
    pipeline.save_pretrained(tmp_path / "model")
    write_volume(volume, tmp_path / "in.npz")
    words = ["volume", str(tmp_path / "model"), str(tmp_path / "in.npz"), "--sigma", "30", "--device", "cpu"]
    assert main([*words, "--output", str(tmp_path / "out.npz")]) == 0
    assert "5x20x36 voxels of 3x0.5x0.75" in capsys.readouterr().out
    made = read_volume(tmp_path / "out.npz")
    assert made.spacing == volume.spacing
    np.testing.assert_allclose(made.values, denoise_volume(pipeline, volume, 30.0).values, atol=1e-3)
    for more, message in (
        (["--output", str(tmp_path / "out.png")], "ends in .npz"),
        (["--output", str(tmp_path / "out.npz")], "exists"),
        (["--output", str(tmp_path / "new.npz"), "--black", "500"], "smaller one first"),
        (["--output", str(tmp_path / "new.npz"), "--patch", "16"], "--patch 16 must be at least twice --overlap 16"),
        (["--output", str(tmp_path / "new.npz"), "--sigma", "1e9"], "the model's strongest noise"),
        (["--output", str(tmp_path / "new.npz"), "--sigma", "0"], "--sigma is missing: standard deviation of the"),
    ):
        assert main([*words, *more]) == 2
        assert message in capsys.readouterr().err
