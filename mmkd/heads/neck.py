"""Feature pairs from the necks of student and teacher."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from mmkd.structures import FeaturePair, Step


class NeckAdapter:
    """Pairs the neck's outputs level by level.

    Args:
        student: The student.
        teacher: The teacher's network.
        loss: Name of a loss that asks for features, for the error.

    Raises:
        ValueError: Student or teacher has no neck.
    """

    taps: Mapping[str, str] = {'neck': 'neck'}

    def __init__(self, student: nn.Module, teacher: nn.Module, loss: str) -> None:
        for role, model in (('student', student), ('teacher', teacher)):
            if getattr(model, 'neck', None) is None:
                raise ValueError(
                    f'model.losses.{loss} compares neck features, but the {role} '
                    f'({type(model).__name__}) has no neck: give it one, or take a loss on logits'
                )

    def feature_pairs(self, step: Step) -> list[FeaturePair]:
        """One pair per level.

        Raises:
            ValueError: Other number of levels, or a level of another shape.
        """
        student_maps = step.record('neck')[0]
        teacher_maps = step.teacher_features
        if len(student_maps) != len(teacher_maps):
            raise ValueError(
                f"the student's neck gives {len(student_maps)} levels, the teacher's "
                f'{len(teacher_maps)}: set num_outs of both necks alike'
            )
        for level, (ours, theirs) in enumerate(zip(student_maps, teacher_maps, strict=True)):
            if ours.shape != theirs.shape:
                raise ValueError(
                    f'neck level {level}: student {tuple(ours.shape)}, teacher {tuple(theirs.shape)}: '
                    'the necks need the same out_channels and strides'
                )
        return [
            FeaturePair(level, ours, theirs)
            for level, (ours, theirs) in enumerate(zip(student_maps, teacher_maps, strict=True))
        ]
