"""One of two processes of `test_two_processes_agree`, which gives it a configuration and a folder for its result."""

import hashlib
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from continuous_unet.tasks.generate import training as generate
from continuous_unet.training import TrainConfig, train
from continuous_unet.training.trainer import Trainer

config, folder = TrainConfig.load(sys.argv[1]), Path(sys.argv[2])
rank = int(os.environ["RANK"])
real_loss, real_step, trainers = generate.GenerateTask.loss, Trainer.take_step, []


def poisoned_loss(self, step, **options):
    loss = real_loss(self, step, **options)
    if rank == 1 and step.step == 1:
        loss = loss * loss.new_tensor([1.0, float("nan")])
    return loss


def step_with_signal(self, batches):
    trainers.append(self)
    if rank == 1 and self.state.step == 2:
        os.kill(os.getpid(), signal.SIGTERM)
    return real_step(self, batches)


generate.GenerateTask.loss = poisoned_loss
Trainer.take_step = step_with_signal
result = train(config)
weights = [p.detach().numpy().tobytes() for p in trainers[0].learner.model.parameters()]
digest = hashlib.sha256(b"".join(weights)).hexdigest()
(folder / f"process-{rank}.json").write_text(json.dumps({**asdict(result), "weights": digest}))
