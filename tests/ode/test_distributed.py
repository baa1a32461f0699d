"""DistributedDataParallel on two real gloo processes, with a module used twice and gradient accumulation."""

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from continuous_unet.ode import State, integrate

from .fields import Split


class Twice(nn.Module):
    """A solver block used twice, with an embedding made inside the model."""

    def __init__(self, gradient):
        super().__init__()
        self.field = Split()
        self.embed = nn.Linear(2, 2)
        self.gradient = gradient

    def forward(self, x, timestep):
        state, emb = State(x, torch.zeros_like(x)), torch.tanh(self.embed(timestep))
        for _ in range(2):
            options = {"num_steps": 2, "method": "kick_drift", "gradient": self.gradient, "args": (emb,)}
            state = integrate(self.field, state, **options).state
        return state.x


def data(rank, part):
    generator = torch.Generator().manual_seed(100 + 10 * rank + part)
    return torch.randn(4, 3, generator=generator), torch.randn(4, 2, generator=generator)


def model(gradient):
    torch.manual_seed(0)
    return Twice(gradient)


def work(rank, rendezvous, gradient, results):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    parallel = DistributedDataParallel(model(gradient))
    with parallel.no_sync():
        parallel(*data(rank, 0)).square().mean().backward()
    parallel(*data(rank, 1)).square().mean().backward()
    torch.save([p.grad for p in parallel.parameters()], f"{results}/{gradient}-{rank}.pt")
    del parallel  # before its group, and together: a process was once seen to abort (SIGABRT)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("gradient", ["reversible", "checkpoint"])
def test_two_processes_with_accumulation(gradient, tmp_path):
    torch.multiprocessing.spawn(work, (tmp_path / "rendezvous", gradient, tmp_path), nprocs=2)
    ranks = [torch.load(tmp_path / f"{gradient}-{rank}.pt", weights_only=True) for rank in range(2)]
    alone = model("backprop")
    for rank in range(2):
        for part in range(2):
            (alone(*data(rank, part)).square().mean() / 2).backward()
    for first, second, parameter in zip(*ranks, alone.parameters(), strict=True):
        assert torch.equal(first, second)
        torch.testing.assert_close(first, parameter.grad, atol=1e-6, rtol=1e-5)
