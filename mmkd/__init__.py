"""mmkd: knowledge distillation for MMDetection detectors and MMPretrain classifiers.

``mmkd.functional`` needs nothing but PyTorch. Everything else is registered in MMEngine's registries when mmkd is
imported (``custom_imports = dict(imports=['mmkd'])`` in a config) and loaded when it is first built.
"""

from importlib.util import find_spec

__version__ = '0.1.0'

if find_spec('mmengine') is not None:
    from . import registry  # noqa: F401  (declares the `mmkd.` scope; modules load when first asked for)
