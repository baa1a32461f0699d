import torch

from continuous_unet.diffusion.draws import seed_dropout, training_noise


def test_noise_belongs_to_the_position_not_to_the_batch():
    noise, timesteps = training_noise(0, range(4, 8), (1, 2, 2), 1000)
    halves = [training_noise(0, positions, (1, 2, 2), 1000) for positions in (range(4, 6), range(6, 8))]
    assert torch.equal(noise, torch.cat([n for n, _ in halves]))
    assert torch.equal(timesteps, torch.cat([t for _, t in halves]))
    assert not torch.equal(noise, training_noise(1, range(4, 8), (1, 2, 2), 1000)[0])


def test_noise_is_normal_and_timesteps_are_even():
    noise, timesteps = training_noise(0, range(2000), (1, 4, 4), 10)
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    assert timesteps.bincount(minlength=10).min() > 150
    assert len(timesteps.bincount()) == 10


def test_dropout_differs_by_step_part_and_process():
    draws = set()
    for coordinates in ((0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 0, 0, 0)):
        seed_dropout(*coordinates)
        draws.add(float(torch.rand(())))
    assert len(draws) == 5
