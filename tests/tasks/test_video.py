"""Clips: reading, the task, sampling, and continuing a clip."""

import numpy as np
import pytest
import torch
from PIL import Image

from continuous_unet import ContinuousUNet3DModel, VideoPipeline
from continuous_unet.base.errors import InputError
from continuous_unet.cli.main import main
from continuous_unet.data.clips.dataset import open_clips
from continuous_unet.data.clips.drawn import BUILT_IN_CLIPS
from continuous_unet.data.clips.reading import read_clips
from continuous_unet.data.volumes import read_volume
from continuous_unet.diffusion.options import FlowOptions, VariancePreservingOptions
from continuous_unet.images.animations import clip_paths, save_clips
from continuous_unet.tasks.base import StepContext
from continuous_unet.tasks.video.options import VideoTraining
from continuous_unet.tasks.video.training import VideoTask


def write_clips(path, shape=(6, 5, 8, 8), seed=0):
    np.savez(path, clips=np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))
    return str(path)


def make_pipeline(frames=4, process=VariancePreservingOptions):
    torch.manual_seed(0)
    small = {"block_out_channels": (8,), "norm_num_groups": 4, "add_attention": False}
    model = ContinuousUNet3DModel(sample_size=(frames, 8, 8), in_channels=1, out_channels=1, **small)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    pipeline = VideoPipeline(model.eval(), process().make().scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("name", BUILT_IN_CLIPS)
def test_the_built_in_clips_move_and_are_always_the_same(name, monkeypatch):
    monkeypatch.setattr("continuous_unet.data.clips.drawn.NUMBER", 8)
    clips, again = read_clips(name)[0], read_clips(name)[0]
    assert all(np.array_equal(a, b) for a, b in zip(clips, again, strict=True))
    data = open_clips(name, frames=8)
    assert data.shape == (1 if name == "moving-digits" else 3, 8, 16, 16)
    assert len(data) == 8 * (12 - 8 + 1)
    clip = data[3]["image"]
    assert clip.dtype == torch.float32
    assert -1 <= clip.min() < clip.max() <= 1
    assert all((before != after).any() for before, after in zip(clip[:, :-1].unbind(1), clip[:, 1:].unbind(1)))


def test_clips_are_read_from_gif_frames_and_archives_alike(tmp_path):
    levels = np.random.default_rng(0).integers(0, 2, (5, 8, 6), dtype=np.uint8) * 255
    np.savez(tmp_path / "clips.npz", clips=levels[None])
    save_clips(torch.from_numpy(levels / 255.0)[None, None], [tmp_path / "clip.gif"])
    folder = tmp_path / "frames" / "one"
    folder.mkdir(parents=True)
    for number, frame in zip((1, 2, 3, 9, 10), levels, strict=True):
        Image.fromarray(frame).save(folder / f"{number}.png")
    for source in ("clips.npz", "clip.gif", "frames", "frames/one"):
        (clip,), _ = read_clips(str(tmp_path / source))
        assert np.array_equal(clip[..., 0], levels), source
    data = open_clips(str(tmp_path / "frames"), frames=5, channels=3, image_size="4x4")
    assert data.shape == (3, 5, 4, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 6}, r"has 5 frame\(s\), and 6 are learned at a time"),
        ({"channels": 4}, "clips are grey"),
        ({"source": "nothing.npz"}, "does not exist"),
        ({"shape": (2, 3, 4, 4, 2)}, "1 or 3 channels"),
    ],
)
def test_what_is_no_clip_is_refused(options, message, tmp_path):
    source = write_clips(tmp_path / "a.npz", options.pop("shape", (2, 5, 8, 8)))
    with pytest.raises(InputError, match=message):
        open_clips(**{"source": source, "frames": 4, **options})


@pytest.mark.parametrize("side", [16, 15])
def test_clips_are_written_and_read_as_mp4(side, tmp_path):
    pytest.importorskip("av", reason="the video extra is not installed")
    levels = np.linspace(0, 1, side * side, dtype=np.float32).reshape(1, 1, 1, side, side)
    clips = torch.from_numpy(np.concatenate([levels, 1 - levels, levels.swapaxes(3, 4)], axis=2))
    (path,) = clip_paths(tmp_path / "clips.mp4", 1)
    save_clips(clips, [path])
    (clip,), names = read_clips(str(path))
    factor = 2 if side % 2 else 1
    assert names == ["clips.mp4"]
    assert clip.shape == (3, factor * side, factor * side, 1)
    assert np.abs(clip[:, ::factor, ::factor, 0] / 255 - clips[0, 0].numpy()).mean() < 0.03
    (tmp_path / "damaged.mp4").write_bytes(b"#EXTM3U\nclips.mp4")
    with pytest.raises(InputError, match=r"damaged\.mp4 cannot be read"):
        read_clips(str(tmp_path / "damaged.mp4"))


def test_clips_of_different_sizes_need_a_size(tmp_path):
    for name, side in (("a", 8), ("b", 12)):
        save_clips(torch.rand(1, 1, 4, side, side), [tmp_path / f"{name}.gif"])
    with pytest.raises(InputError, match=r"8x8 \(a.gif\) and 12x12 \(b.gif\) pixels; say which size"):
        open_clips(str(tmp_path), frames=4)
    assert open_clips(str(tmp_path), frames=4, image_size=8).shape[1:] == (4, 8, 8)


def test_given_frames_are_clean_and_do_not_count():
    """The model sees them without noise; the loss of the others is that of a mean over what is left."""
    process = VariancePreservingOptions().make()
    task = VideoTask(VideoTraining(frames=4, continue_share=0.5), process)
    batch = {"index": torch.arange(4)}
    counts = task.conditions(batch, torch.device("cpu"), torch.tensor([0.0, 0.3, 0.499, 0.5]))["given"]
    assert counts.tolist() == [1, 2, 2, 0]
    assert task.conditions(batch, torch.device("cpu")) == {}
    clean, noise, seen = torch.randn(4, 1, 4, 8, 8), torch.randn(4, 1, 4, 8, 8), []

    def model(x, times):
        seen.append(x)
        return type("Output", (), {"sample": torch.zeros_like(x)})

    step = StepContext(model, process, clean, noise, torch.full((4,), 500), {"given": counts})
    loss = task.loss(step)
    target = process.add_noise(clean, noise, step.times).target
    for k, count in enumerate(counts.int().tolist()):
        assert torch.equal(seen[0][k, :, :count], clean[k, :, :count])
        assert not torch.isclose(seen[0][k, :, count:], clean[k, :, count:]).all()
        torch.testing.assert_close(loss[k], target[k, :, count:].square().mean())


@pytest.mark.parametrize("process", [VariancePreservingOptions, FlowOptions])
def test_clips_continue_from_their_first_frames(process):
    pipeline = make_pipeline(process=process)
    first = torch.rand(1, 2, 8, 8)

    def clips(**options):
        generators = [torch.Generator().manual_seed(k) for k in range(2)]
        return pipeline(2, generators, 3, output_type="pt", return_dict=False, **options)[0]

    free, held = clips(), clips(first_frames=first)
    assert free.shape == held.shape == (2, 1, 4, 8, 8)
    torch.testing.assert_close(held[:, :, :2], first.expand(2, 1, 2, 8, 8))
    assert not torch.allclose(held[:, :, 2:], free[:, :, 2:])
    with pytest.raises(InputError, match="1 to 3 frames, and 8x8 pixels"):
        clips(first_frames=torch.rand(1, 4, 8, 8))
    with pytest.raises(InputError, match="has 3 clips for a batch of"):
        clips(first_frames=torch.rand(3, *first.shape))
    assert [len(clip) for clip in pipeline(1, num_inference_steps=1).images] == [4]


def test_train_sample_and_continue_from_the_command_line(tmp_path, capsys):
    data, run = write_clips(tmp_path / "clips.npz"), str(tmp_path / "run")
    model = ["--preset", "clips", "--model-option", "block_out_channels=[8]", "--model-option", "norm_num_groups=4"]
    size = ["--frames", "4", "--steps", "2", "--batch-size", "2", "--num-validation", "1", "--sampling-steps", "2"]
    words = ["train", "--task", "video", "--data", data, "--output", run, *model, *size, "--num-samples", "2"]
    assert main(words) == 0
    assert "clips of 5 frames" in capsys.readouterr().err
    assert main(["train", "--output", run, "--resume", "--steps", "3"]) == 0
    sample = ["sample", run, "--steps", "2", "--num", "2"]
    assert main([*sample, "--output", str(tmp_path / "new.gif")]) == 0
    assert read_clips(str(tmp_path / "new.gif"))[0][0].shape[0] == 4
    continued = [*sample, "--first-frames", data, "--given-frames", "3", "--output", str(tmp_path / "clips")]
    assert main(continued) == 0
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == ["0000.gif", "0001.gif"]
    made, first = read_clips(str(tmp_path / "clips" / "0001.gif"))[0][0], read_clips(data)[0][0]
    assert np.array_equal(made[:3], first[:3])
    archive, volume = str(tmp_path / "new.npz"), str(tmp_path / "new.nii.gz")
    assert main([*sample, "--output", archive]) == 0
    with np.load(archive) as numbers:
        assert numbers["clips"].dtype == np.float32
        assert np.array_equal(np.round(numbers["clips"][1] * 255), read_clips(archive)[0][1][..., 0])
    assert main([*sample[:-1], "1", "--output", volume]) == 0
    assert np.allclose(read_volume(volume).values, np.load(archive)["clips"][0], atol=1e-6)
    capsys.readouterr()
    for wrong, message in (
        (["--prompt", "a dog"], "--prompt is for models of images"),
        (["--first-frames", data, "--given-frames", "4"], "expected 1 to 3"),
        (["--output", str(tmp_path / "x.png")], "ends in .gif"),
        (["--output", volume], "NIfTI holds one grey volume, not 2 clips"),
    ):
        assert main([*sample, "--overwrite", *wrong]) == 2
        assert message in capsys.readouterr().err
