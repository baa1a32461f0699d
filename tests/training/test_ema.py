import torch
from torch import nn

from continuous_unet.training.ema import averaged_weights, make_ema


def trained(steps=5):
    torch.manual_seed(0)
    model = nn.Linear(3, 3)
    ema = make_ema(model, 0.9)
    for _ in range(steps):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        ema.step(model.parameters())
    return model, ema


def test_the_average_lags_behind():
    model, ema = trained()
    assert not torch.allclose(ema.shadow_params[0], model.weight)


def test_weights_come_back_bit_for_bit():
    model, ema = trained()
    before = model.weight.clone()
    model.train()
    with averaged_weights(model, ema):
        assert torch.equal(model.weight, ema.shadow_params[0])
        assert not model.training
    assert torch.equal(model.weight, before)
    assert model.training
