"""The distiller: a student that trains with a teacher, and is nothing but the student to everyone else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.logging import MessageHub, print_log
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmkd.heads import NeckAdapter, build_head_adapter
from mmkd.losses import DistillLoss, Progress
from mmkd.registry import LOSSES, MODELS, build
from mmkd.structures import ClassMap, Step

from .isolation import isolated_rng
from .precision import compile_parts
from .record import Observer, StepRecord
from .taps import Taps
from .teacher import Teacher
from .watch import LossWatch


@MODELS.register_module()
class Distiller(BaseModel):
    """Trains a student with its own loss plus distillation losses from a frozen teacher.

    Student and distiller are two objects over one tree of modules: the student's children are the distiller's own,
    under their own names, beside one more, ``distill``, that holds what the losses train. Therefore state_dict,
    optimizer parameter groups, EMA copies and hooks see the student, and a saved checkpoint loads in plain
    MMDetection or MMPretrain. Attributes the distiller lacks resolve to the student.

    With every weight at 0 a step is the student's own step and the teacher does not run. Once every weight is 0 for
    good, its memory is freed.

    Args:
        student: Config of the student, as ``model`` in its own config file.
        teacher: ``dict(config=..., checkpoint=...)``, see :class:`Teacher`.
        losses: Name to loss config, such as ``dict(ckd=dict(type='mmkd.CKDLoss', weight=1.0))``. Each appears in the
            log as ``loss_<name>``, already weighted.
        data_preprocessor: The student's, where its config has it beside ``model``, as MMPretrain's do; MMEngine's
            Runner passes it on.
        head: Options of the adapter that aligns the heads, such as ``dict(layers='all')`` for every decoder layer of
            a query head; see the adapter's class in :mod:`mmkd.heads`.
        compile: Compile backbone and neck of student and teacher, see :func:`compile_parts`: True, or options of
            ``torch.compile``.
        channels_last: Keep the weights of student and teacher, and therefore their feature maps, in channels-last
            memory.

    Raises:
        ValueError, TypeError, RuntimeError, FileNotFoundError: Something of the recipe cannot work; the message names
            the part and the fix.
    """

    def __init__(
        self,
        student: Mapping[str, Any],
        teacher: Mapping[str, Any],
        losses: Mapping[str, Mapping[str, Any]] | None = None,
        head: Mapping[str, Any] | None = None,
        data_preprocessor: Mapping[str, Any] | None = None,
        compile: bool | Mapping[str, Any] = False,
        channels_last: bool = False,
    ) -> None:
        if data_preprocessor is not None:
            student = {'data_preprocessor': data_preprocessor, **student}
        built = MODELS.build(student)
        super().__init__(data_preprocessor=built.data_preprocessor)
        with isolated_rng():
            distill = nn.ModuleDict(
                {
                    name: build(LOSSES, config, where=f'model.losses.{name}')
                    for name, config in (losses or {}).items()
                }
            )
        self._share_tree(built)
        self.distill = distill
        self.teacher = Teacher(**teacher, student_preprocessor=built.data_preprocessor)
        self._watch = LossWatch()
        self._started = False
        self._classes = ClassMap()
        self._observers: list[Observer] = []
        self._attach(head)
        self._channels_last = channels_last
        if channels_last:
            self.to(memory_format=torch.channels_last)
        if compile:
            options = {} if compile is True else compile
            compile_parts(self.student, options)
            compile_parts(self.teacher.model, options)

    def forward(
        self, inputs: Tensor, data_samples: list[Any] | None = None, mode: str = 'tensor'
    ) -> Any:
        """The student's forward; only ``mode='loss'`` also distils."""
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        return self.student(inputs, data_samples, mode)

    def loss(self, inputs: Tensor, data_samples: list[Any] | None) -> dict[str, Any]:
        """The student's losses and ``loss_<name>`` of every distillation loss whose weight is not 0 now.

        Args:
            inputs: (B, 3, H, W) normalised images.
            data_samples: B data samples with ground truth.

        Returns:
            Loss name to scalar tensor or list of them, as MMEngine's ``parse_losses`` takes it.

        Raises:
            RuntimeError: A loss has a weight again after the teacher was released.
        """
        progress = Progress.current()
        if not self._started:
            self._start()
        weights = {name: loss.weight(progress) for name, loss in self.distill_losses.items()}
        active = {name: self.distill_losses[name] for name, weight in weights.items() if weight}
        for name, loss in self.distill_losses.items():
            loss.begin_step(active=name in active)
        observers, self._observers = self._observers, []
        values: dict[str, Tensor] = {}
        step: Step | None = None
        if not active:
            self._release_teacher_if_over(progress)
        elif self.teacher.released:
            raise RuntimeError(
                f'{", ".join(active)}: the weight is not 0, but the teacher was released when all weights were 0 for '
                'good: training went back; build the model anew'
            )
        if active:
            with self._taps.recording() as records:
                losses = self.student.loss(inputs, data_samples)
            step = Step(
                inputs=inputs,
                data_samples=data_samples or [],
                records=records,
                run_teacher=self.teacher.features,
                head=self._head,
                neck=self._neck,
                classes=self._classes,
                teacher_precision=self.teacher.precision,
            )
            task = dict(losses)
            for name, loss in active.items():
                if f'loss_{name}' in losses:
                    raise ValueError(
                        f"model.losses.{name}: the student's own losses have a loss_{name} already: "
                        'give the distillation loss another name'
                    )
                values[name] = loss(step)
                value = weights[name] * values[name]
                self._watch.check(name, value, progress)
                losses[f'loss_{name}'] = value
        else:
            losses = self.student.loss(inputs, data_samples)
            task = dict(losses)
        for name, loss in self.distill_losses.items():
            extras = [parameter for parameter in loss.parameters() if parameter.requires_grad]
            if name not in active and extras:  # DDP wants every parameter in every step's graph
                losses[f'loss_{name}'] = sum(parameter.sum() for parameter in extras) * 0.0
        for observer in observers:
            observer(StepRecord(progress, task, weights, values, step))
        return losses

    def observe_next_step(self, observer: Observer) -> None:
        """Have ``observer`` called once, with the :class:`StepRecord` of the next training step.

        It is called at the end of the step's forward pass. It may ask the record's graph for gradients
        (``torch.autograd.grad`` with ``retain_graph=True``) and must leave it as it is.
        """
        self._observers.append(observer)

    def predict_teacher(self, data: Any) -> list[Any]:
        """The teacher's own predictions, see :meth:`Teacher.predict`, in the classes of the run's data set."""
        if not self._started:
            self._start()
        return self.teacher.predict(data, self._classes)

    @property
    def distill_losses(self) -> dict[str, DistillLoss]:
        """The distillation losses by name."""
        return dict(self.distill.items())  # type: ignore[arg-type]

    def val_step(self, data: Any) -> Any:
        """The student's own."""
        return self.student.val_step(data)

    def test_step(self, data: Any) -> Any:
        """The student's own."""
        return self.student.test_step(data)

    def init_weights(self) -> None:
        """Initialise the student; the teacher is loaded already and the losses initialise themselves."""
        distill = self._modules.pop('distill')  # past the student's init_cfg and its random numbers
        try:
            if self._channels_last:  # random numbers are drawn in memory's order
                self.student.to(memory_format=torch.contiguous_format)
            self.student.init_weights()
            if self._channels_last:
                self.student.to(memory_format=torch.channels_last)
        finally:
            self._modules['distill'] = distill

    def train(self, mode: bool = True) -> Distiller:
        """Set the mode of student and losses; the teacher stays in eval."""
        self.student.train(mode)
        self.training = mode
        return self

    def __getattr__(self, name: str) -> Any:
        """A child, parameter or buffer of the shared tree, else whatever the student has of that name."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if 'student' not in self.__dict__:
                raise
            return getattr(self.__dict__['student'], name)

    def _start(self) -> None:
        """What needs the run: MMEngine's hooks tell the data set's class names before the first step."""
        dataset_meta = MessageHub.get_current_instance().get_info('dataset_meta') or {}
        if self._head is not None:
            self._classes = self.teacher.match_classes(
                dataset_meta.get('classes'), self._head.num_classes, self._head.num_teacher_classes
            )
        self._started = True

    def _release_teacher_if_over(self, progress: Progress) -> None:
        """Free the teacher once no loss will ever have a weight again."""
        losses = self.distill_losses.values()
        if self.teacher.released or not all(loss.is_over(progress) for loss in losses):
            return
        self._taps.detach()
        freed = self.teacher.release()
        print_log(
            f'from iteration {progress.iteration} on the weight of every distillation loss is 0: the teacher no longer '
            f'runs, its {freed / 2**20:.1f} MiB are freed',
            'current',
        )

    def _share_tree(self, student: nn.Module) -> None:
        """Make the student's parameters, buffers and children this module's own.

        The dicts are shared, not copied: whoever replaces a child (FSDP, SyncBN conversion) replaces it in both.
        """
        self.__dict__['student'] = (
            student  # past nn.Module.__setattr__, which would add a prefix to every name
        )
        self._parameters = student._parameters
        self._buffers = student._buffers
        self._non_persistent_buffers_set = student._non_persistent_buffers_set
        self._modules = student._modules
        self._state_dict_hooks = student._state_dict_hooks

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """The student's own, which may rename the keys of other checkpoints."""
        self.student._load_from_state_dict(*args, **kwargs)

    def _attach(self, head: Mapping[str, Any] | None) -> None:
        """Choose the adapters that the losses ask for, let them check the pair, attach their taps once."""
        needs = {need: name for name, loss in self.distill_losses.items() for need in loss.needs}
        unknown = needs.keys() - {'logits', 'boxes', 'features'}
        if unknown:
            raise ValueError(
                f'losses ask for {sorted(unknown)}; there are logits, boxes and features'
            )
        student, teacher = self.student, self.teacher.model
        reads_head = needs.keys() & {'logits', 'boxes'}
        self._head = build_head_adapter(student, teacher, head) if reads_head else None
        if self._head is not None:
            self.teacher.check_num_classes(self._head.num_classes, self._head.num_teacher_classes)
        self._neck = (
            NeckAdapter(student, teacher, loss=needs['features']) if 'features' in needs else None
        )
        with isolated_rng():
            for loss in self.distill_losses.values():
                loss.attach(self._head, self._neck)
        paths: dict[str, str] = {}
        for adapter in (self._head, self._neck):
            if adapter is not None:
                paths.update(adapter.taps)
        self._taps = Taps(student, paths)

    def _apply(self, fn: Any, recurse: bool = True) -> Distiller:
        super()._apply(fn, recurse)
        self.teacher.apply(fn)
        return self
