"""One of two processes of `test_two_processes_agree`, which gives it a configuration and a folder for its result."""

import hashlib
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import continuous_unet.training.trainer as loop
from continuous_unet.tasks.registry import generation
from continuous_unet.training import TrainConfig

config, folder = TrainConfig.load(sys.argv[1]).validate(), Path(sys.argv[2])
rank = int(os.environ["RANK"])
trainer = loop._Trainer(config, resume=False)
real_loss, real_step = generation.diffusion_loss, trainer._take_step


def poisoned_loss(*args):
    loss = real_loss(*args)
    if rank == 1 and trainer.step == 1:
        loss = loss * loss.new_tensor([1.0, float("nan")])
    return loss


def step_with_signal(batches):
    if rank == 1 and trainer.step == 2:
        os.kill(os.getpid(), signal.SIGTERM)
    return real_step(batches)


generation.diffusion_loss = poisoned_loss
trainer._take_step = step_with_signal
result = trainer.run()
digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in trainer.model.parameters())).hexdigest()
(folder / f"process-{rank}.json").write_text(json.dumps({**asdict(result), "weights": digest}))
