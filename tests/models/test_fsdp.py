"""The model under torch's `fully_shard` (FSDP2) on two real gloo processes: the gradients of one process."""

import pytest
import torch
import torch.distributed
import torch.multiprocessing

from continuous_unet import ContinuousUNet2DModel


def model(gradient):
    torch.manual_seed(0)
    sizes = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16), "norm_num_groups": 4}
    unet = ContinuousUNet2DModel(**sizes, gradient=gradient)
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return unet


def images():
    return torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([1, 5, 9, 700])


def work(rank, rendezvous, gradient, results):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    unet, mesh = model(gradient), init_device_mesh("cpu", (2,))
    for stage in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
        fully_shard(stage, mesh=mesh)
    fully_shard(unet, mesh=mesh)
    own = slice(2 * rank, 2 * rank + 2)
    sample, timesteps = (tensor[own] for tensor in images())
    unet(sample, timesteps).sample.square().mean().backward()
    sharded = all(p.to_local().numel() < p.numel() for p in unet.parameters() if p.shape[0] > 1)
    torch.save([sharded, *(p.grad.full_tensor() for p in unet.parameters())], f"{results}/{rank}.pt")
    del unet
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "reversible"])
def test_sharded_gradients_are_those_of_one_process(gradient, tmp_path):
    torch.multiprocessing.spawn(work, (tmp_path / "rendezvous", gradient, tmp_path), nprocs=2)
    alone = model(gradient)
    alone(*images()).sample.square().mean().backward()
    for rank in range(2):
        sharded, *gradients = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert sharded
        for got, parameter in zip(gradients, alone.parameters(), strict=True):
            torch.testing.assert_close(got, parameter.grad, atol=1e-6, rtol=1e-4)
