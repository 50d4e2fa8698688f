"""Pairs the features of any module of student and teacher by the strides of their levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmkd.structures import (
    NECK,
    PRE_LOGITS,
    FeaturePair,
    Features,
    Holding,
    Step,
    Taps,
    evaluating,
    module_path,
)

PROBE_SIZES = (128, 384, 224)
"""Sizes of the blank image, in pixels, in the order in which they are tried: 128 is the stride of most detectors'
deepest level, SSD needs more, and many classifiers take 224 only."""
_WITHIN_EXTRACT_FEAT = ('backbone', 'neck')


class FeatureSource:
    """Pairs the outputs of a module of each network by stride. Levels that only one of them has are left out.

    The outputs are maps (B, C, H, W) or pooled features (B, C).

    Args:
        student: The student.
        teacher: The teacher's network.
        request: Names the modules.

    Attributes:
        channels: Channels of student and teacher for each common level, shallow to deep.
        strides: Input pixels per cell for each common level; None for pooled features.

    Raises:
        ValueError: A network has no such module, the module's outputs are no features, or no level is common.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, request: Features) -> None:
        ours, our_levels = _probe(student, request.at, 'student')
        theirs, their_levels = _probe(teacher, _teacher_path(request), 'teacher')
        # Necks such as YOLOv3's list their levels from deep to shallow.
        common = sorted(key for key in our_levels if key in their_levels)
        our_strides, their_strides = (
            [stride or None for stride, _ in keys] for keys in (our_levels, their_levels)
        )
        if not common:
            raise ValueError(
                f"features at {request.at!r}: a pair has equal strides, but the student's levels have strides "
                f"{our_strides}, the teacher's {their_strides} (None is pooled): name modules of equal stride, or take "
                'a loss on logits'
            )
        self.strides = [stride or None for stride, _ in common]
        self._pairs = [(our_levels[key], their_levels[key]) for key in common]
        self.channels = [(ours[i].shape[1], theirs[k].shape[1]) for i, k in self._pairs]
        if not len(common) == len(our_levels) == len(their_levels):
            print_log(
                f"features at {request.at!r} of strides {self.strides} are distilled: the student's levels have "
                f"{our_strides}, the teacher's {their_strides}",
                'current',
            )
        self._tap = f'at {request.at}'
        self.taps: Mapping[str, str] = {self._tap: tap_path(request.at)}

    def to_store(self, request: Features) -> Holding:
        """Raise an error: feature maps are too large to be stored."""
        raise ValueError(f'features at {request.at!r} are not stored')

    def answer(self, request: Features, step: Step) -> list[FeaturePair]:
        """One pair per common level, of equal height and width.

        If sizes differ, because one network pads more or rounds differently, both maps are cut to the cells that both
        have: padding is on the right and at the bottom.
        """
        ours = flat(step.record(self._tap))
        theirs = step.teachers[request.teacher].features_at(_teacher_path(request))
        pairs = []
        for level, (stride, (i, k)) in enumerate(zip(self.strides, self._pairs, strict=True)):
            student, teacher = ours[i], theirs[k].detach()
            if stride is not None:
                height, width = (
                    min(sizes) for sizes in zip(student.shape[-2:], teacher.shape[-2:], strict=True)
                )
                student, teacher = (x[..., :height, :width] for x in (student, teacher))
            pairs.append(FeaturePair(level, stride, student, teacher))
        return pairs


def tap_path(at: str) -> str:
    """The tap that records the features at ``at``."""
    return 'head.pre_logits()' if at == PRE_LOGITS else at


def teacher_taps(requests: Sequence[Any], teacher: str) -> tuple[list[str], bool]:
    """The teacher's modules whose outputs the requests ask for.

    Returns:
        Their paths, without the neck; and whether these are all in backbone or neck and nothing else is asked of the
        teacher.
    """
    asked = [request for request in requests if request.teacher == teacher]
    paths = [_teacher_path(request) for request in asked if isinstance(request, Features)]
    inner = [path for path in paths if path.split('.')[0] in _WITHIN_EXTRACT_FEAT and path != NECK]
    return sorted({path for path in paths if path != NECK}), len(inner) == len(asked)


def run_to(network: Any, path: str, features: Any) -> None:
    """Run a network from the ``features`` of its ``extract_feat`` as far as the module at ``path``.

    Raises:
        ValueError: The module is in a head that needs more than these features.
    """
    if path == PRE_LOGITS:
        network.head.pre_logits(features)
    elif path.split('.')[0] not in _WITHIN_EXTRACT_FEAT:
        try:
            network.get_submodule(path.split('.')[0])(features)
        except TypeError as error:
            raise ValueError(
                f'features at {path!r}: {type(network).__name__} computes them from more than its neck gives '
                f'({error}): name a module of its backbone, its neck or a dense head'
            ) from None


def flat(outputs: Sequence[Any]) -> list[Tensor]:
    """The levels in a module's outputs, from one call with all levels or one call per level."""
    levels: list[Tensor] = []
    for output in outputs:
        if isinstance(output, Tensor):
            levels.append(output)
        elif isinstance(output, list | tuple):
            levels += flat(output)
        else:
            raise TypeError(f'a {type(output).__name__} holds no levels')
    return levels


def _teacher_path(request: Features) -> str:
    return request.at if request.teacher_at is None else request.teacher_at


def _levels(maps: Sequence[Tensor], size: int) -> dict[tuple[int, int], int]:
    """Key of each level to its position: its stride (0 if pooled), and the number of earlier levels of that stride."""
    strides = [size // level.shape[-1] if level.dim() == 4 else 0 for level in maps]
    return {
        (stride, strides[:position].count(stride)): position
        for position, stride in enumerate(strides)
    }


@torch.no_grad()
def _probe(model: Any, path: str, role: str) -> tuple[list[Tensor], dict[tuple[int, int], int]]:
    """Outputs at a path for a blank image: modules have no common attribute for channels and strides.

    Runs in eval mode, so that no running statistics change.

    Returns:
        The outputs, and the levels as :func:`_levels` returns them.

    Raises:
        ValueError: There is no such module, its outputs are no features, or the network fails on all image sizes.
    """
    _check_path(model, path, role)
    reference = next(model.parameters())
    taps = Taps(model, {path: tap_path(path)})
    try:
        with evaluating(model), as_it_computes(model), taps.recording() as records:
            model.eval()  # LeViT and others prepare for it there
            for size in PROBE_SIZES:
                records[path].clear()
                try:
                    run_to(model, path, model.extract_feat(reference.new_zeros(1, 3, size, size)))
                except (RuntimeError, AssertionError) as error:
                    failure = error
                else:
                    break
            else:
                raise ValueError(
                    f'{type(model).__name__} takes no blank image of {", ".join(map(str, PROBE_SIZES))} px, by '
                    f'which the levels of its features are looked at ({failure}): losses on features cannot be used '
                    'with it'
                ) from failure
    finally:
        taps.detach()
    outputs = records[path]
    if not outputs:
        raise ValueError(
            f'features at {path!r}: the {role} ({type(model).__name__}) has such a module, but does not call it'
        )
    try:
        levels = flat(outputs)
        ranks = {level.dim() for level in levels}
    except TypeError:
        ranks = set()
    if not ranks or not ranks <= {2, 4}:
        shapes = [tuple(level.shape) for level in levels] if ranks else type(outputs[0]).__name__
        raise ValueError(
            f'features at {path!r}: the {role} ({type(model).__name__}) outputs {shapes} there: only maps (B, C, H, W) '
            'and pooled features (B, C) can be distilled'
        )
    return levels, _levels(levels, size)


def as_it_computes(model: nn.Module) -> AbstractContextManager[Any]:
    """Autocast for a teacher whose layers hold half-precision weights: its normalisation does not."""
    types = {parameter.dtype for parameter in model.parameters()}
    half = next((dtype for dtype in (torch.float16, torch.bfloat16) if dtype in types), None)
    if half is None:
        return nullcontext()
    return torch.autocast(next(model.parameters()).device.type, dtype=half)


def _check_path(model: Any, path: str, role: str) -> None:
    kind = type(model).__name__
    if path == PRE_LOGITS:
        if not hasattr(getattr(model, 'head', None), 'pre_logits'):
            raise ValueError(
                f'features at {PRE_LOGITS!r}: the {role} ({kind}) is no classifier: only classifiers have pooled '
                "(B, C) features. Take maps, at='neck', with a loss on maps"
            )
        if next(model.head.parameters(), None) is None:
            raise ValueError(
                f"features at {PRE_LOGITS!r}: the {role}'s {type(model.head).__name__} has no class layer of its own, "
                f'its {type(model.backbone).__name__} outputs the logits: name a module of it, such as '
                "at='backbone.classifier.4' of a VGG"
            )
        return
    path = module_path(path)
    if path == NECK and getattr(model, 'neck', None) is None:
        raise ValueError(
            f"features at 'neck': the {role} ({kind}) has no neck: give it one, name another module, such as "
            "at='backbone', or take a loss on logits"
        )
    names = [name for name, _ in model.named_modules() if name]
    if path not in names:
        near = get_close_matches(path, names, n=3)
        raise ValueError(
            f'features at {path!r}: the {role} ({kind}) has no such module'
            + (f'; nearest: {", ".join(near)}' if near else '')
        )
