"""Backbones and other parts of the distillation papers' networks that MMPretrain lacks, for its ``ImageClassifier``.

Registered in the ``mmkd.`` scope when this package is imported (``custom_imports = dict(imports=['mmkd.models'])`` in a
config), and not before: detectors need no MMPretrain.
"""

from .cifar_mobilenet_v2 import CifarMobileNetV2
from .cifar_resnet import CifarResNet
from .cifar_shufflenet_v1 import CifarShuffleNetV1
from .cifar_shufflenet_v2 import CifarShuffleNetV2
from .cifar_vgg import CifarVGG
from .mobilenet_v1 import MobileNetV1
from .simkd import ReusedLinearClsHead, SimKDProjector
from .wide_resnet import WideResNet

__all__ = [
    'CifarMobileNetV2',
    'CifarResNet',
    'CifarShuffleNetV1',
    'CifarShuffleNetV2',
    'CifarVGG',
    'MobileNetV1',
    'ReusedLinearClsHead',
    'SimKDProjector',
    'WideResNet',
]
