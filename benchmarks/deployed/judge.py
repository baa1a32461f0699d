"""The quality of a model in any form: validation loss and FID."""

import json
from typing import Any

import numpy as np
import torch
from deployed.bench import CPU, Bench, fast_sampling, free_cores

from continuous_unet import DiffusionSamplingPipeline
from continuous_unet.data import train_validation_split
from continuous_unet.deploy.calibration import open_for, origin
from continuous_unet.diffusion.process import process_of
from continuous_unet.evaluation.quality.extractors import Preparation
from continuous_unet.evaluation.quality.extractors.classifier import SmallClassifier
from continuous_unet.evaluation.quality.generation import distances, fake_features, real_features
from continuous_unet.tasks.generate.options import GenerateTraining
from continuous_unet.tasks.generate.pipeline import generate
from continuous_unet.tasks.generate.training import GenerateTask
from continuous_unet.training.validation import validate


class Judge:
    """Measures the validation loss on the images that our run held out, and the FID by the small classifier."""

    def __init__(self, bench: Bench, fid: bool = True) -> None:
        torch.set_num_threads(free_cores())
        arguments = bench.arguments
        known = origin(arguments.ours)
        data = open_for(bench.pipeline("ours").unet, arguments.data, known)
        count = min(known.config.data.num_validation or 256, len(data) // 2)
        self.data, self.held_out = train_validation_split(data, count, known.config.seed)
        self.seed, self.arguments, self.fid = known.config.seed, arguments, fid
        if not fid:
            return
        path, facts = bench.work / "classifier.safetensors", bench.work / "classifier.json"
        if not facts.is_file():
            print("classifier", flush=True)
            given = Preparation(self.data, self.held_out, path, CPU, arguments.extractor_steps)
            trained = SmallClassifier.prepare(given)
            facts.write_text(json.dumps(trained), encoding="utf-8")
        self.extractor = SmallClassifier(path, json.loads(facts.read_text(encoding="utf-8")), CPU)
        numbers = np.random.default_rng(0).permutation(len(self.data))[: arguments.samples].tolist()
        self.real = real_features(self.data, numbers, self.extractor, CPU)

    def __call__(self, pipeline: DiffusionSamplingPipeline) -> dict[str, Any]:
        task = GenerateTask(GenerateTraining(), process_of(pipeline.scheduler))
        loss = validate(task, pipeline.unet, self.held_out, seed=self.seed)["validation_loss"]
        return {"validation_loss": loss, **(self.samples(pipeline, 10) if self.fid else {})}

    def samples(self, pipeline: DiffusionSamplingPipeline, steps: int) -> dict[str, Any]:
        images = generate(fast_sampling(pipeline), self.arguments.samples, num_inference_steps=steps, batch_size=50)
        fake, _ = fake_features(images, self.extractor, CPU)
        fid = distances(self.real, fake).fid
        return {"fid": fid, "samples": self.arguments.samples, "extractor": self.extractor.name}
