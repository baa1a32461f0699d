"""Write a model for ONNX Runtime and others, with proof that it computes the same.

cunet export runs/digits --format onnx --output exported
cunet export runs/digits --format openvino --precision fp16 --static-shape 1x16x16 --output exported

The folder holds the network, export.json (shapes, noise schedule, errors against PyTorch, latency) and runtime.py.
The latter runs the network without torch. If the error exceeds the tolerance, nothing is left and the exit code is 1.
"""

from continuous_unet.cli.verb import Verb
from continuous_unet.deploy.options import ExportOptions

EXPORT = Verb(ExportOptions, "continuous_unet.deploy.export:export", __doc__)
