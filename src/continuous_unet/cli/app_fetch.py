"""Fetch onnxruntime-web once, which pages need to compute in a browser.

It comes from the npm registry, or from a file. Its hash is checked, and it is kept in the user's cache.

cunet app fetch --archive onnxruntime-web.tgz
"""

from continuous_unet.cli.verb import Verb
from continuous_unet.deploy.web_runtime import FetchOptions

FETCH = Verb(FetchOptions, "continuous_unet.deploy.web_runtime:fetch_runtime", __doc__)
