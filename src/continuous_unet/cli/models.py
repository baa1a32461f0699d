"""List the models that come with the package.

Every verb that takes a model takes these by name. A folder of the same name takes precedence.

cunet models
cunet models denoise-grey
"""

from continuous_unet.cli.verb import Verb
from continuous_unet.tasks.packaged import ModelsOptions

MODELS = Verb(ModelsOptions, "continuous_unet.tasks.packaged:list_models", __doc__)
