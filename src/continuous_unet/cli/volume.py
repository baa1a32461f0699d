"""Remove noise from a volume, in overlapping patches.

cunet train --task video --data scans/ --preset clips --output runs/scans
cunet volume runs/scans scan.nii.gz --sigma 20 --output clean.nii.gz

The result keeps the spacing of the voxels. The model is one of clips, with depth in place of time; see docs/video.md.
"""

from continuous_unet.cli.verb import Verb
from continuous_unet.tasks.video.options import VolumeOptions

VOLUME = Verb(VolumeOptions, "continuous_unet.tasks.video.volumes:denoise_file", __doc__)
