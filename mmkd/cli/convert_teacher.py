"""Convert published weights of a classifier into a checkpoint that MMPretrain's models and the Teacher load.

    mmkd convert-teacher ckpt_epoch_240.pth work_dirs/teachers/cifar100_resnet56.pth

Reads the teachers that CRD's and mdistiller's code publish for CIFAR-100, what that code saves in a run of your own
(``*_last.pth``; ``best`` and ``latest``, of which it takes the student), torchvision's ResNets, and other files with
these networks and names, such as the ResNets published with Places365. Which network it is follows from the names and
shapes in the file; every one of them has to fit.
"""

from __future__ import annotations

import argparse
import os.path as osp
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from mmkd.checkpoints import (
    CorruptCheckpointError,
    UnsafeCheckpointError,
    load_checkpoint,
    load_weights,
    shorten,
    written_whole,
)
from mmkd.registry import CONFIGS

NETWORKS = (
    *sorted(
        f'mmkd::{path.relative_to(CONFIGS).as_posix()}'
        for folder in ('cifar100', 'imagenet', 'places365')
        for path in (CONFIGS / folder).glob('plain_*.py')
    ),
    'mmpretrain::resnet/resnet34_8xb32_in1k.py',
    'mmpretrain::resnet/resnet50_8xb32_in1k.py',
)
"""Configs that a file is compared with if none is named."""

RENAMED = (
    (r'^(fc|linear|classifier|classifier\.0)\.(weight|bias)$', r'head.fc.\2'),
    (r'^block(\d)\.layer\.', r'layer\1.'),  # the Wide ResNets
    (r'\.convShortcut\.', '.shortcut.'),
    (r'\.shortcut\.([01])\.', r'.downsample.\1.'),  # the ResNet50 for 32x32 images
    (r'^model\.', 'layers.'),  # MobileNetV1
    (r'^(?!head\.fc\.)', 'backbone.'),
)
"""Patterns in published names and what stands there in MMPretrain's, applied one after the other."""

SHUFFLENET_V2 = (
    (r'^(conv|bn)1\.', r'conv1.\1.'),
    (r'^(conv|bn)2\.', r'layers.3.\1.'),
    *((rf'^layer{stage}\.', f'layers.{stage - 1}.') for stage in (1, 2, 3)),
    # A stage's first unit has two convolutions on the left and three on the right, the others three on the right.
    (r'^(layers\.\d\.0)\.(conv|bn)1\.', r'\1.branch1.0.\2.'),
    (r'^(layers\.\d\.0)\.(conv|bn)2\.', r'\1.branch1.1.\2.'),
    (r'^(layers\.\d\.0)\.(conv|bn)3\.', r'\1.branch2.0.\2.'),
    (r'^(layers\.\d\.0)\.(conv|bn)4\.', r'\1.branch2.1.\2.'),
    (r'^(layers\.\d\.0)\.(conv|bn)5\.', r'\1.branch2.2.\2.'),
    (r'^(layers\.\d\.[1-9])\.(conv|bn)1\.', r'\1.branch2.0.\2.'),
    (r'^(layers\.\d\.[1-9])\.(conv|bn)2\.', r'\1.branch2.1.\2.'),
    (r'^(layers\.\d\.[1-9])\.(conv|bn)3\.', r'\1.branch2.2.\2.'),
)
"""Those of ShuffleNetV2, to be applied before: its names mean other things in other networks."""

MOST_DIFFERENCES = 4
"""In how many weights a file may differ from a network that it is compared with: fewer than a layer with its batch norm
has, so that it is a network of this depth and width."""

Weights = dict[str, Tensor]


class ConversionError(RuntimeError):
    """The file holds no weights, or not those of a network; the message says what to do."""


def convert(source: str, target: str, config: str | None = None, allow_pickle: bool = False) -> str:
    """Write the weights of ``source`` to ``target`` under MMPretrain's names.

    Args:
        source: The published file.
        target: The checkpoint to write; folders are made.
        config: Config of the network: a path or ``'mmpretrain::...'``. None takes the one of ``NETWORKS`` that fits.
        allow_pickle: See :func:`mmkd.checkpoints.load_checkpoint`.

    Returns:
        The config.

    Raises:
        ConversionError: The file holds no weights, or does not fit.
        FileNotFoundError, CorruptCheckpointError, UnsafeCheckpointError: The file cannot be read.
    """
    weights = rename(published_weights(source, allow_pickle))
    if config is None:
        config = fitting_config(weights, source)
    elif problems := misfits(weights, config):
        raise ConversionError(f'{source} does not fit --config {config}:\n' + '\n'.join(problems))
    meta = dict(converted_from=osp.basename(source), config=config)
    with written_whole(target) as file:
        torch.save(dict(state_dict=weights, meta=meta), file)
    return config


def published_weights(source: str, allow_pickle: bool = False) -> Weights:
    """The weights in a file: what is under ``model`` or ``state_dict``, or all; of a distiller its student's."""
    content = load_checkpoint(source, allow_pickle=allow_pickle, option='--allow-pickle')
    if isinstance(content, Mapping):
        content = content.get('state_dict', content)
    if not isinstance(content, Mapping) or not content:
        raise ConversionError(f'{source} holds no weights, but a {type(content).__name__}')
    others = [
        str(key)
        for key, value in content.items()
        if not (isinstance(key, str) and isinstance(value, Tensor))
    ]
    if others:
        raise ConversionError(
            f"{source} holds no weights under 'model' or 'state_dict', and things that are no weights beside "
            f'them: {", ".join(shorten(others))}'
        )
    # Saved from DataParallel, and from mdistiller's distillers, which hold their teachers too.
    weights = {key.removeprefix('module.'): value for key, value in content.items()}
    student = [key for key in weights if key.startswith('student.')]
    return {key.removeprefix('student.'): weights[key] for key in student or weights}


def rename(weights: Weights) -> Weights:
    """The same weights under MMPretrain's names."""
    is_shufflenet_v2 = 'layer1.0.conv5.weight' in weights
    renamed: Weights = {}
    for key, value in weights.items():
        name = key
        for pattern, replacement in (SHUFFLENET_V2 if is_shufflenet_v2 else ()) + RENAMED:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed


def fitting_config(weights: Weights, source: str) -> str:
    """The config of the network that the weights belong to.

    Raises:
        ConversionError: There is none; the message compares the weights with those of a network that they nearly fit.
    """
    found = _shapes(weights)
    differences = {}
    for config in NETWORKS:
        expected = expected_shapes(config)
        names = found.keys() | expected.keys()
        differences[config] = sum(found.get(name) != expected.get(name) for name in names)
        if not differences[config]:
            return config
    lines = [f'{source} fits no network that is known here.']
    closest = min(differences, key=differences.__getitem__)
    if differences[closest] <= MOST_DIFFERENCES:
        lines += [f'But for these it is the one of {closest}:', *misfits(weights, closest)]
    lines.append(
        'Name a config with the network, to have the weights compared with it: --config CONFIG'
    )
    raise ConversionError('\n'.join(lines))


def misfits(weights: Weights, config: str) -> list[str]:
    """In which names and shapes the weights differ from those of a config's network; one text for each kind."""
    return load_weights(network_of(config), weights)


@cache
def expected_shapes(config: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of a config's network."""
    return _shapes(network_of(config).state_dict())


def network_of(config: str) -> nn.Module:
    """The network of a config, with random weights.

    Raises:
        ConversionError: There is no such config.
    """
    if '::' in config:
        loaded = get_config(config)
    elif Path(config).is_file():
        loaded = Config.fromfile(config)
    else:
        raise ConversionError(f'--config: there is no file {config}')
    with DefaultScope.overwrite_default_scope(loaded.get('default_scope')):
        return MODELS.build(loaded.model)


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Without the counters of batch norms, which old files lack."""
    return {
        key: tuple(value.shape)
        for key, value in weights.items()
        if not key.endswith('num_batches_tracked')
    }


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='mmkd convert-teacher',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('source', help='the published file')
    parser.add_argument('target', help='the checkpoint to write')
    parser.add_argument('--config', help="the network's config, if it is none of the known ones")
    parser.add_argument(
        '--allow-pickle',
        action='store_true',
        help='unpickle whatever the file holds, which can run code that is in it',
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Convert; return the exit code: 0, or 2 if the file cannot be converted."""
    args = parse_args(argv)
    try:
        config = convert(args.source, args.target, args.config, args.allow_pickle)
    except (
        ConversionError, FileNotFoundError, CorruptCheckpointError, UnsafeCheckpointError
    ) as error:  # fmt: skip
        print(f'Not converted: {error}', file=sys.stderr)
        return 2
    print(
        f'{args.target}: the weights of {args.source}, for\n'
        f'  teacher=dict(config={config!r}, checkpoint={args.target!r})'
    )
    return 0
