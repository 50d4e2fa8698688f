"""The distiller: trains a student with teachers, and looks like the student to all other code."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmkd.heads.tapped import TappedNetwork
from mmkd.losses import DistillLoss, GradientShares, build_schedule
from mmkd.losses.base import idle
from mmkd.losses.gradient_shares import NAME as SHARES
from mmkd.losses.gradient_shares import shares_of
from mmkd.losses.schedules import Schedule, is_over
from mmkd.registry import LOSSES, MODELS, TEACHERS, build
from mmkd.structures import (
    TEACHER,
    ClassMap,
    Holding,
    Progress,
    Request,
    Sources,
    Step,
    StoredRows,
    head_source,
)
from mmkd.teachers import PeerTeacher, Teacher
from mmkd.teachers.isolation import isolated_rng
from mmkd.teachers.labels import names_of_run
from mmkd.teachers.peer import RecordedPass, guest_taps
from mmkd.teachers.precision import compile_parts

from .record import Observer, StepRecord
from .watch import LossWatch


@MODELS.register_module()
class Distiller(BaseModel):
    """Trains a student with its own loss plus distillation losses from one or several teachers.

    Student and distiller are two objects that share one tree of modules: the student's children are the distiller's,
    too, under the same names. The distiller has one more child, ``distill``, with what the losses train. So state_dict,
    parameter groups of the optimizer, EMA copies and hooks see the student, and a saved checkpoint loads in plain
    MMDetection or MMPretrain. Attributes that the distiller lacks are looked up in the student.

    While every weight is 0, a step is the student's own step and no teacher runs. Once every weight stays 0 until the
    end of training, the teachers' memory is freed.

    Args:
        student: Config of the student, as ``model`` in its own config file.
        teacher: ``dict(config=..., checkpoint=...)``, see :class:`mmkd.teachers.FrozenTeacher`; another kind by its
            ``type``, such as ``dict(type='mmkd.AveragedTeacher', momentum=0.999)``.
        teachers: Several teachers by name, instead of ``teacher``; a loss chooses one with ``teacher='<name>'``.
        losses: Name to loss config, such as ``dict(ckd=dict(type='mmkd.CKDLoss', weight=1.0))``. Each appears in the
            log as ``loss_<name>``, already weighted.
        task_weight: Weight of the student's own losses: a number or a schedule, such as 0.1 for ``0.1 CE + 0.9 KD``.
        data_preprocessor: The student's, if its config has it outside of ``model``, as MMPretrain's do. MMEngine's
            Runner passes it on.
        head: Options of the adapter that aligns the heads, such as ``dict(layers='all')`` for every decoder layer of
            a query head; see the adapter's class in :mod:`mmkd.heads`.
        compile: Compile backbone and neck of student and teacher, see :func:`compile_parts`: True, or options of
            ``torch.compile``.
        channels_last: Keep the weights of student and teacher, and therefore their feature maps, in channels-last
            memory.

    Raises:
        ValueError, TypeError, RuntimeError, FileNotFoundError: The recipe cannot work; the message names the setting
            and the fix.
    """

    def __init__(
        self,
        student: Mapping[str, Any],
        teacher: Mapping[str, Any] | None = None,
        losses: Mapping[str, Mapping[str, Any]] | None = None,
        head: Mapping[str, Any] | None = None,
        data_preprocessor: Mapping[str, Any] | None = None,
        compile: bool | Mapping[str, Any] = False,
        channels_last: bool = False,
        teachers: Mapping[str, Mapping[str, Any]] | None = None,
        task_weight: float | Mapping[str, Any] | Schedule = 1.0,
    ) -> None:
        _check_names(losses or {}, 'model.losses', "ckd=dict(type='mmkd.CKDLoss')")
        if (teacher is None) == (teachers is None):
            raise ValueError(
                'model.teacher: give one teacher as model.teacher, or several by name as model.teachers'
            )
        if teacher is not None:
            teachers = {TEACHER: teacher}
        assert teachers is not None
        _check_names(teachers, 'model.teachers', 'large=dict(config=..., checkpoint=...)')
        twice = sorted(teachers.keys() & (losses or {}).keys())
        if twice or not teachers:
            raise ValueError(
                f'model.teachers: {twice[0]!r} is also the name of a loss: give one of them another name'
                if twice
                else 'model.teachers is empty: name at least one teacher'
            )
        if data_preprocessor is not None:
            student = {'data_preprocessor': data_preprocessor, **student}
        built = MODELS.build(student)
        _check_student(built)
        super().__init__(data_preprocessor=built.data_preprocessor)
        self._task_schedule = build_schedule(task_weight, where='model.task_weight')
        with isolated_rng():
            distill: dict[str, nn.Module] = {
                name: build(LOSSES, config, where=f'model.losses.{name}')
                for name, config in (losses or {}).items()
            }
        self.teachers = _build_teachers(teachers, built)
        self._loss_names = list(distill)
        for name, each in self.teachers.items():
            trained = each.module
            if trained is not None:
                distill[name] = trained
        self._share_tree(built)
        self.distill = nn.ModuleDict(distill)
        self._watch = LossWatch()
        self._started = False
        self._classes = {name: ClassMap() for name in self.teachers}
        self._predicted_classes: ClassMap | None = None
        self._observers: list[Observer] = []
        self._attach(head)
        if shares := shares_of(self.distill_losses):
            _check_rest(self._task_schedule, self.distill_losses, shares)
            self.distill[SHARES] = GradientShares(built, self.distill_losses)
        self._channels_last = channels_last
        if channels_last:
            self.to(memory_format=torch.channels_last)
        if compile:
            options = {} if compile is True else compile
            compile_parts(self.student, options)
            for each in self.teachers.values():
                each.compile(options)

    def forward(
        self, inputs: Tensor, data_samples: list[Any] | None = None, mode: str = 'tensor'
    ) -> Any:
        """The student's forward; only ``mode='loss'`` also distils."""
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        return self.student(inputs, data_samples, mode)

    def loss(self, inputs: Tensor, data_samples: list[Any] | None) -> dict[str, Any]:
        """The student's losses, and ``loss_<name>`` for every distillation loss with a weight other than 0.

        Args:
            inputs: (B, 3, H, W) normalised images.
            data_samples: B data samples with ground truth.

        Returns:
            Loss name to scalar tensor or list of them, as MMEngine's ``parse_losses`` takes it.

        Raises:
            RuntimeError: A loss has a weight other than 0 again after the teacher was released.
        """
        progress = Progress.current()
        self.match_classes()
        for teacher in self.teachers.values():
            teacher.begin_step(progress)
        wanted = {name: loss.weight(progress) for name, loss in self.distill_losses.items()}
        active = {name: self.distill_losses[name] for name, weight in wanted.items() if weight}
        weights: dict[str, float | Tensor] = {**wanted}
        for name, loss in self.distill_losses.items():
            loss.begin_step(active=name in active)
        observers, self._observers = self._observers, []
        if not active:
            self._release_teachers_if_over(progress)
        elif any(teacher.released for teacher in self.teachers.values()):
            raise RuntimeError(
                f'{", ".join(active)}: the weight is not 0, but the teacher was released when all weights were 0 for '
                'good: training went back; build the model again'
            )
        if active:
            losses, records = self._tapped.loss(inputs, data_samples)
        else:
            losses, records = self.student.loss(inputs, data_samples), {}
        unweighted = dict(losses)
        self._weigh_task(losses, progress)
        task = dict(losses)
        values: dict[str, Tensor] = {}
        step: Step | None = None
        if active:
            asked = {loss.teacher for loss in active.values()}
            passes = {
                name: teacher.on(inputs, data_samples or [], self._classes[name])
                for name, teacher in self.teachers.items()
                if name in asked
            }
            step = self._tapped.step(inputs, data_samples, records, passes, progress)
            values = self._values(step, active, losses)
            if SHARES in self.distill:
                weights |= self.distill[SHARES].weights(  # type: ignore[operator]
                    self.student,
                    unweighted,
                    self._task_schedule(progress),
                    values,
                    wanted,
                    progress,
                )
            for name, value in values.items():
                losses[f'loss_{name}'] = weights[name] * value
                self._watch.check(f'loss_{name}', losses[f'loss_{name}'], progress, step)
            self._teach_peers(step, losses)
        for name, module in self.distill.items():
            if name in active or (step is not None and name in step.teachers):
                continue
            zero = idle(module)
            if zero is not None:
                losses[f'loss_{name}'] = zero
        for observer in observers:
            observer(StepRecord(progress, task, weights, values, step))
        return losses

    def _values(
        self, step: Step, active: Mapping[str, DistillLoss], losses: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """The unweighted active losses; ``losses`` are the student's own."""
        values: dict[str, Tensor] = {}
        for name, loss in active.items():
            if f'loss_{name}' in losses:
                raise ValueError(
                    f"model.losses.{name}: the student's own losses have a loss_{name} already: "
                    'give the distillation loss another name'
                )
            values[name] = loss(step)
        return values

    def _teach_peers(self, step: Step, losses: dict[str, Any]) -> None:
        """Let the step's peer teachers learn from the student; adds their losses to ``losses``."""
        student = RecordedPass(self.student, step.records, step.inputs, ClassMap())
        for name in step.teachers:
            peer = self.teachers[name]
            if isinstance(peer, PeerTeacher):
                watch = partial(self._watch_peer, name)
                learned = peer.learn(step.data_samples, student, step.progress, watch)
                losses |= {f'{name}.{key}': value for key, value in learned.items()}

    def observe_next_step(self, observer: Observer) -> None:
        """Call ``observer`` once, with the :class:`StepRecord` of the next training step.

        It is called at the end of the step's forward pass. It may compute gradients on the record's graph, with
        ``torch.autograd.grad(..., retain_graph=True)``, and must not change it.
        """
        self._observers.append(observer)

    def match_classes(self) -> None:
        """Find the classes of the run's data set among the teachers'; done once.

        The first step does it, because MMEngine's hooks publish the data set's class names only when training starts.

        Raises:
            ValueError: A teacher lacks a class, or the classes cannot be told apart.
        """
        if self._started:
            return
        for name in self._heads:
            self._classes[name] = self._class_map(name)
        self._started = True

    def predict_teacher(self, data: Any) -> list[Any]:
        """The teacher's own predictions, see :meth:`Teacher.predict`, in the classes of the run's data set.

        Raises:
            ValueError: The teacher lacks a class of the data set, or the classes cannot be told apart.
        """
        name, teacher = next(iter(self.teachers.items()))
        if self._predicted_classes is None:
            self.match_classes()
            # Losses on features have no classes; predictions have.
            self._predicted_classes = (
                self._classes[name] if name in self._heads else self._class_map(name)
            )
        return teacher.predict(data, self._predicted_classes)

    @property
    def sources(self) -> Sources:
        """The sources that answer the losses' requests."""
        return self._tapped.sources

    def requests_of(self, teacher: str) -> dict[str, list[Request[Any]]]:
        """Name of each loss to its requests to a teacher."""
        return {
            name: [request for request in loss.requests() if request.teacher == teacher]
            for name, loss in self.distill_losses.items()
        }

    def class_map(self, teacher: str) -> ClassMap:
        """Maps a teacher's classes to those of the run's data set."""
        self.match_classes()
        return self._classes[teacher]

    def teacher_rows(
        self, inputs: Tensor, data_samples: list[Any], holding: Holding, teacher: str = TEACHER
    ) -> list[StoredRows]:
        """The rows that a store keeps of a teacher for a batch, see :meth:`mmkd.heads.HeadAdapter.teacher_rows`."""
        seen = self.teachers[teacher].on(inputs, data_samples, self.class_map(teacher))
        if holding.positives:
            _, records = self._tapped.loss(inputs, data_samples)
            step = self._tapped.step(inputs, data_samples, records, {teacher: seen}, Progress())
            return self._heads[teacher].positive_rows(step, holding)
        return self._heads[teacher].teacher_rows(seen, self.student, data_samples, holding)

    @property
    def teacher(self) -> Teacher:
        """The teacher; if there are several, the first."""
        return next(iter(self.teachers.values()))

    @property
    def distill_losses(self) -> dict[str, DistillLoss]:
        """The distillation losses by name."""
        return {name: self.distill[name] for name in self._loss_names}  # type: ignore[misc]

    def val_step(self, data: Any) -> Any:
        """The student's validation step."""
        return self.student.val_step(data)

    def test_step(self, data: Any) -> Any:
        """The student's test step."""
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
        """Look up in the shared tree, then in the student."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if 'student' not in self.__dict__:
                raise
            return getattr(self.__dict__['student'], name)

    def _class_map(self, name: str) -> ClassMap:
        """The map of a teacher's classes to the student's; without a head, the student's are those of the data set."""
        teacher, head = self.teachers[name], self._heads.get(name)
        if head is not None:
            student, theirs = head.num_classes, head.num_teacher_classes
        else:
            theirs = len(teacher.classes or ())
            student = len(names_of_run(theirs) or ())
        return teacher.match_classes(names_of_run(student), student, theirs)

    def _watch_peer(
        self, peer: str, name: str, value: Tensor, progress: Progress, step: Step
    ) -> None:
        self._watch.check(f'{peer}.{name}', value, progress, step)

    def _weigh_task(self, losses: dict[str, Any], progress: Progress) -> None:
        """Multiply the student's own losses by the task's weight."""
        weight = self._task_schedule(progress)
        if weight == 1:
            return
        for name, value in losses.items():
            if 'loss' in name:  # what MMEngine's parse_losses adds up
                losses[name] = (
                    value * weight
                    if isinstance(value, Tensor)
                    else [part * weight for part in value]
                )

    def _release_teachers_if_over(self, progress: Progress) -> None:
        """Free the teachers once every weight stays 0 until the end."""
        losses = self.distill_losses.values()
        teachers = [teacher for teacher in self.teachers.values() if not teacher.released]
        if not teachers or not all(loss.is_over(progress) for loss in losses):
            return
        self._tapped.detach()
        freed = sum(teacher.release() for teacher in teachers)
        print_log(
            f'from iteration {progress.iteration} on the weight of every distillation loss is 0: the teacher no longer '
            f'runs, its {freed / 2**20:.1f} MiB are freed',
            'current',
        )

    def _share_tree(self, student: nn.Module) -> None:
        """Make the student's parameters, buffers and children this module's own.

        The dicts are shared, not copied: replacing a child (FSDP, SyncBN conversion) replaces it in both.
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
        """Load as the student does, which may rename the keys of other checkpoints."""
        self.student._load_from_state_dict(*args, **kwargs)

    def _attach(self, head: Mapping[str, Any] | None) -> None:
        """Build the sources that the losses ask for, which check the pairs, and attach their taps."""
        networks = {name: teacher.model for name, teacher in self.teachers.items()}
        with isolated_rng():
            self._tapped = TappedNetwork(self.student, networks, self.distill_losses, head)
        self._heads: dict[str, Any] = {}
        for name, teacher in self.teachers.items():
            teacher.tap(*self._tapped.paths(name))
            teacher.check_requests(self.requests_of(name), self.sources)
            adapter = self._tapped.sources.get(head_source(name))
            if adapter is not None:
                self._heads[name] = adapter
                teacher.check_num_classes(adapter.num_classes, adapter.num_teacher_classes)
        peers = [each for each in self.teachers.values() if isinstance(each, PeerTeacher)]
        if peers:
            self._tapped.also_tap(guest_taps([path for peer in peers for path in peer.asks]))

    def _apply(self, fn: Any, recurse: bool = True) -> Distiller:
        super()._apply(fn, recurse)
        for teacher in self.teachers.values():
            teacher.apply(fn)
        return self


def _build_teachers(configs: Mapping[str, Any], student: Any) -> dict[str, Teacher]:
    seed = torch.initial_seed()
    teachers: dict[str, Teacher] = {}
    with isolated_rng():
        for name, config in configs.items():
            peers = sum(isinstance(each, PeerTeacher) for each in teachers.values())
            if peers:  # else two of one config would begin as twins
                torch.default_generator.manual_seed(seed + peers)
            teachers[name] = _build_teacher(config, student, name)
    return teachers


def _build_teacher(config: Mapping[str, Any], student: Any, name: str) -> Teacher:
    where = 'model.teacher' if name == TEACHER else f'model.teachers.{name}'
    if not isinstance(config, Mapping):
        raise TypeError(f'{where}: expected dict(config=..., checkpoint=...), got {config!r}')
    kind = 'mmkd.FrozenTeacher' if config.get('store') is None else 'mmkd.StoredTeacher'
    options = {'type': kind, **config, 'student': student}
    if options.get('store', ...) is None:
        del options['store']
    try:
        return build(TEACHERS, options, where)
    except Exception as error:
        # A teacher does not know its name; its errors speak of model.teacher.
        error.args = tuple(
            part.replace('model.teacher.', f'{where}.') if isinstance(part, str) else part
            for part in error.args
        )
        raise


def _check_names(parts: Any, where: str, example: str) -> None:
    """Check that each name of a loss or teacher can be the name of a module."""
    if not isinstance(parts, Mapping) or isinstance(parts.get('type'), str):
        raise TypeError(
            f'{where}: expected a dict of names, such as dict({example}), got {parts!r}'
        )
    for name in parts:
        taken = isinstance(name, str) and (hasattr(nn.ModuleDict, name) or name == SHARES)
        if not name or not isinstance(name, str) or '.' in name or taken:
            raise ValueError(
                f'{where}: {name!r} cannot be a name: take a word without dots that is neither {SHARES!r} '
                f"nor an attribute of PyTorch's ModuleDict, such as dict({example})"
            )


def _check_rest(
    task: Schedule, losses: Mapping[str, DistillLoss], shares: Mapping[str, Any]
) -> None:
    """Whether shares of the gradient leave a rest that has a weight."""
    start = Progress()
    others = [loss for name, loss in losses.items() if name not in shares]
    if is_over(task, start) and all(loss.is_over(start) for loss in others):
        raise ValueError(
            f'model.losses.{next(iter(shares))}.weight: a share of the gradient is one beside others, and neither the '
            "student's own loss (model.task_weight is 0) nor another loss has a weight: give this one a number"
        )


def _check_student(student: nn.Module) -> None:
    """Check that the student is a plain model, without a teacher of its own."""
    names = [name for name in ('student', 'teacher', 'distill') if hasattr(student, name)]
    if names:
        raise ValueError(
            f'model.student: {type(student).__name__} has a part `{names[0]}`: it trains with a teacher already, as '
            'semi-supervised detectors do, and cannot be distilled: give the plain detector or classifier within it'
        )
