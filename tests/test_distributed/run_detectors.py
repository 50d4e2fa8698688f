"""Detectors and a classifier that 1, 2 and 4 processes train with the same images; what each process got is saved.

usage: python run_detectors.py FOLDER

The numbers of processes are run one after the other, forked from one that has imported MMDetection.
"""

from __future__ import annotations

import copy
import logging
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import asks
import query_models
import torch
import torch.distributed as dist
import zoo
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from tiny import CKD, NUM_CLASSES, TINY_RETINANET, student_model, teacher_model
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from mmkd.distillers import Distiller
from mmkd.functional.processes import gather_rows

CLASSES = 4
PARTS = {1: [4], 2: [3, 1], 4: [1, 1, 1, 1]}
"""Processes to the number of images of each; the third image has no object."""
DENSE_LOSSES = dict(
    ckd=dict(type='mmkd.CKDLoss', samples=dict(type='mmkd.TeacherTopK', k=8)),
    ckd_of_positives=dict(
        type='mmkd.CKDLoss',
        symmetric=True,
        chunk_size=8,
        samples=dict(type='mmkd.PositivesAndTeacherTopK', k=1),
    ),
    ckd_of_none=dict(type='mmkd.CKDLoss', samples=dict(type='mmkd.Positives')),
    aekt=dict(type='mmkd.AEKTLoss', serial='task_then_distill'),
    aekt_later=dict(
        type='mmkd.AEKTLoss',
        serial='task_then_distill',
        weight=dict(type='LinearWarmup', begin=1, end=2),
    ),
    qfl=dict(type='mmkd.QFLKDLoss'),
    qfl_mean=dict(type='mmkd.QFLKDLoss', average='samples'),
    box_giou=dict(type='mmkd.BoxGIoULoss'),
    box_l1=dict(type='mmkd.BoxL1Loss'),
)

MAP_LOSSES = dict(
    pkd=dict(type='mmkd.PKDLoss'),
    cwd=dict(type='mmkd.CWDLoss'),
    class_maps=dict(type='mmkd.CWDLoss', at='class_maps'),
    review=dict(type='mmkd.ReviewKDLoss'),
    ickd=dict(type='mmkd.ICKDLoss'),
    at=dict(type='mmkd.ATLoss'),
    nst=dict(type='mmkd.NSTLoss'),
    fitnet=dict(type='mmkd.FitNetLoss'),
    vid=dict(type='mmkd.VIDLoss'),
    ofd=dict(type='mmkd.OFDLoss'),
    fgd=dict(type='mmkd.FGDLoss'),
    mgd=dict(type='mmkd.MGDLoss', mask_ratio=0.0),  # each process draws other masks
    fgfi=dict(type='mmkd.FGFILoss'),
    defeat=dict(type='mmkd.DeFeatLoss'),
    mimic=dict(type='mmkd.MimicLoss'),
    bckd=dict(type='mmkd.BCKDLoss'),
    ld=dict(type='mmkd.LDLoss'),
    ld_mean=dict(type='mmkd.LDLoss', average='confidence'),
    cross=dict(type='mmkd.CrossKDLoss'),
)
RELATIONS = {
    name: dict(type=f'mmkd.{name}Loss')
    for name in (
        'RKD',
        'DIST',
        'CLKD',
        'CorrelationKD',
        'ComparativeKD',
        'QuadraticKD',
        'KD',
        'NKD',
        'SP',
        'PKT',
        'CC',
        'MLLD',
        'TTM',
        'OFA',
    )
} | dict(
    sp_of_maps=dict(type='mmkd.SPLoss', at='backbone'),
    CTKD=dict(type='mmkd.CTKDLoss', curriculum=1.0),
    CRD=dict(type='mmkd.CRDLoss', num_samples=7, negatives=16, width=8),
)
SHARED = dict(samples=dict(type='mmkd.SharedQueries'))
QUERY_LOSSES = dict(
    ckd=dict(type='mmkd.CKDLoss', mask_iou=0.5, **SHARED),
    qfl=dict(type='mmkd.QFLKDLoss', average='samples', **SHARED),
    l1=dict(type='mmkd.BoxL1Loss', **SHARED),
    matched=dict(
        type='mmkd.QFLKDLoss', average='samples', samples=dict(type='mmkd.MatchedQueries')
    ),
    matched_l1=dict(
        type='mmkd.BoxL1Loss', samples=dict(type='mmkd.MatchedQueries', which='positives')
    ),
)
BATCH_PARTS = {1: [7], 2: [4, 3], 4: [3, 1, 2, 1]}
"""Processes to the number of the classifier's images of each."""


def main(folder: Path) -> int:
    logging.disable(logging.INFO)
    register_all_modules(init_default_scope=False)
    for processes in PARTS:
        forked = [
            multiprocessing.get_context('fork').Process(target=work, args=(folder, rank, processes))
            for rank in range(processes)
        ]
        for process in forked:
            process.start()
        for process in forked:
            process.join()
        if any(process.exitcode for process in forked):
            return 1
    return 0


def work(folder: Path, rank: int, processes: int) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes))
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/store_{processes}', rank=rank, world_size=processes
    )
    answers: dict[str, Any] = dict(zip(('losses', 'gradients'), dense_gradients(), strict=True))
    answers['weights'] = dense_weights()
    answers['alone'] = ckd_alone()
    answers['maps'] = each_loss_of_maps()
    answers['relations'] = each_relation()
    answers['queries'] = each_loss_of_shared_queries()
    answers['gathered'] = gathered_maps()
    if processes <= 2:
        answers |= cascade_without_rois()
    if processes == 2:
        answers['sharded'] = sharded()
        answers['peer'] = peer()
    torch.save(answers, folder / f'{processes}.{rank}')
    dist.destroy_process_group()


def dense_gradients() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """One backward pass of an FCOS, whose own loss counts its positives over all processes."""
    model = dense()
    wrapped = parallel(model)
    losses = wrapped(**model.data_preprocessor(images(), True), mode='loss')
    total, values = model.parse_losses(losses)
    total.backward()
    return means(values), gradients(model)


def each_loss_of_maps() -> dict[str, Any]:
    """Every loss of a GFL alone. Batch norms of losses are in eval mode: they would see the maps of one process."""
    pair = zoo.pair(
        'mmdet::gfl/gfl_r50_fpn_1x_coco.py',
        bbox_head__num_classes=CLASSES,
        bbox_head__norm_cfg=dict(type='GN', num_groups=8, requires_grad=True),
    )
    model = zoo.distiller(*pair, losses=MAP_LOSSES)
    for network in (model.student, model.teacher.model):  # class maps that vary, as trained ones do
        network.bbox_head.gfl_cls.weight.data.mul_(50)
    for name in ('review', 'ofd'):
        model.distill[name].eval()
    return each_loss(model, model.data_preprocessor(images(), True))


def each_relation() -> dict[str, Any]:
    """Every loss that relates the images of a classifier, and some that do not, on its own."""
    config = Config.fromfile(TINY_RETINANET.with_name('tiny_classifier.py'))
    classes = 5
    config.merge_from_dict(
        {
            'model.head.num_classes': classes,
            'model.backbone.norm_cfg': dict(type='GN', num_groups=4),  # BN would see one process
        }
    )
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = Distiller(
            config.model,
            teacher=dict(config=config, checkpoint='random_init'),
            losses=RELATIONS,
            data_preprocessor=config.data_preprocessor,
        )
        model.init_weights()
    torch.nn.init.normal_(model.head.fc.weight)
    torch.nn.init.normal_(model.teacher.model.head.fc.weight)
    parts = BATCH_PARTS[dist.get_world_size()]
    first = sum(parts[: dist.get_rank()])
    mine = slice(first, first + parts[dist.get_rank()])
    pixels = torch.randn(7, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    samples = [
        DataSample(metainfo=dict(sample_index=number, num_samples=7)).set_gt_label(number % classes)
        for number in range(7)
    ]
    return each_loss(model.train(), dict(inputs=pixels[mine], data_samples=samples[mine]))


def each_loss_of_shared_queries() -> dict[str, Any]:
    """Losses of a DAB-DETR on the teacher's queries."""
    model = zoo.distiller(*query_models.models('DAB-DETR'), losses=QUERY_LOSSES)
    model.teacher.model.init_weights()
    query_models.vary_boxes(model.student, model.teacher.model)
    model.student.decoder.eval()  # dropout would draw other numbers on each process
    model.student.encoder.eval()
    return each_loss(model, model.data_preprocessor(images(), True))


def each_loss(model: Distiller, data: dict[str, Any]) -> dict[str, Any]:
    """What this process logs of every loss, and the mean of the processes' gradients of it."""
    losses, found = zoo.gradients_of_each_loss(model, data, model)
    return dict(
        logged={name: losses[f'loss_{name}'].detach() for name in found}, gradients=means(found)
    )


def gathered_maps() -> tuple[Tensor, Tensor]:
    """Maps of another number and size on each process, numbered by rank, gathered; and the gradient of their sum."""
    rank = dist.get_rank()
    maps = torch.full((rank % 3, 2, 3 + rank, 5 - rank), rank + 1.0, requires_grad=True)
    found, _ = gather_rows(maps)
    found.sum().backward()
    return found.detach(), maps.grad


def peer() -> dict[str, Any]:
    """A RetinaNet and its peer after two steps."""
    mate = dict(
        type='mmkd.PeerTeacher',
        config=dict(model=teacher_model(), default_scope='mmdet'),
        losses=dict(ckd=CKD),
    )
    torch.manual_seed(dist.get_rank())
    with zoo.mmdet_scope():
        model = Distiller(student_model(), teacher=mate, losses=dict(ckd=CKD)).train()
    wrapped = parallel(model)
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for seed in range(2):
        rank = dist.get_rank()
        data = zoo.batch(2, 64, NUM_CLASSES, boxes=(3, 2), seed=2 * seed + rank)
        optimizer.zero_grad()
        with zoo.mmdet_scope():
            losses = wrapped(**data, mode='loss')
        model.parse_losses(losses)[0].backward()
        optimizer.step()
    return dict(
        start=start, end=dict(model.named_parameters()), logged=losses['teacher.loss_ckd'].detach()
    )


def dense_weights() -> dict[str, Tensor]:
    """Four steps with accumulated gradients, one loss with a share of them."""
    share = dict(type='mmkd.GradientShare', share=0.2, interval=3)
    model = dense(DENSE_LOSSES | dict(pkd=dict(type='mmkd.PKDLoss', weight=share)))
    wrapped = parallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    wrapper = OptimWrapper(optimizer, accumulative_counts=2)
    wrapper.initialize_count_status(wrapped, init_counts=0, max_counts=4)
    for _ in range(4):
        wrapped.train_step(images(), wrapper)
    return dict(model.state_dict())


def ckd_alone() -> list[Tensor]:
    """CKD that does not gather: of the two parts of two processes, or of this process's part."""
    model = dense(dict(ckd=DENSE_LOSSES['ckd'] | dict(gather=False)))
    whole = images()
    parts = PARTS[2] if dist.get_world_size() == 1 else [len(whole['inputs'])]
    values = []
    for first, count in zip([0, *parts], parts, strict=False):
        part = {name: values[first : first + count] for name, values in whole.items()}
        losses = model(**model.data_preprocessor(part, True), mode='loss')
        values.append(losses['loss_ckd'].detach())
    return values


def cascade_without_rois() -> dict[str, Any]:
    """CKD of a cascade; the last process samples no RoI, so that MMDetection ends its cascade at once."""
    pair = zoo.pair('mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py')
    model = zoo.distiller(*pair, losses=dict(ckd=dict(type='mmkd.CKDLoss')))
    propose = model.student.rpn_head.loss_and_predict

    def propose_little(*args: Any, **kwargs: Any) -> Any:
        losses, proposals = propose(*args, **kwargs)
        for index, sample in enumerate(args[1]):
            kept = 0 if len(sample.gt_instances) == 0 else 20
            proposals[index] = proposals[index][:kept]
        return losses, proposals

    model.student.rpn_head.loss_and_predict = propose_little
    steps = zoo.record_steps(model)
    wrapped = parallel(model, find_unused_parameters=True)
    order = [0, 1, 3, 2]  # the image without objects is the last
    losses = wrapped(**model.data_preprocessor(images(order), True), mode='loss')
    total, values = model.parse_losses(losses)
    (losses['loss_ckd'] + 0 * total).backward()
    return dict(
        cascade_rois=[len(table) for table in asks.tables(steps[0])],
        cascade_loss=means({'loss_ckd': values['loss_ckd']})['loss_ckd'],
        cascade_gradients=gradients(model),
    )


def sharded() -> dict[str, Any]:
    """A RetinaNet under DDP and under PyTorch's ``fully_shard``, which splits every parameter."""
    data = zoo.batch(2, 64, NUM_CLASSES, boxes=(3, 2), seed=dist.get_rank())
    losses = dict(ckd=DENSE_LOSSES['ckd'], aekt=DENSE_LOSSES['aekt'])
    found: dict[str, Any] = {}
    for kind in ('ddp', 'fsdp'):
        model = zoo.distiller(student_model(), teacher_model(), losses)
        keys = list(model.state_dict())
        wrapped: Any = model
        if kind == 'ddp':
            wrapped = parallel(model)
        else:
            fully_shard(model, mesh=init_device_mesh('cpu', (dist.get_world_size(),)))
            assert any(
                parameter.to_local().numel() < parameter.numel() for parameter in model.parameters()
            )
        step_losses = wrapped(**copy.deepcopy(data), mode='loss')
        total, values = model.parse_losses(step_losses)
        total.backward()
        found[kind] = dict(
            losses=means(values),
            gradients={
                name: gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
                for name, gradient in gradients(model).items()
            },
        )
        assert list(model.state_dict()) == keys
    return found


def dense(losses: dict[str, Any] = DENSE_LOSSES) -> Distiller:
    pair = zoo.pair(
        'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
        bbox_head__num_classes=CLASSES,
        bbox_head__norm_cfg=dict(type='GN', num_groups=8, requires_grad=True),
    )
    return zoo.distiller(*pair, losses=losses)


def parallel(model: Distiller, find_unused_parameters: bool = False) -> MMDistributedDataParallel:
    return MMDistributedDataParallel(
        model, broadcast_buffers=False, find_unused_parameters=find_unused_parameters
    )


def images(order: list[int] | None = None) -> dict[str, Any]:
    """This process's part of four images, as the data loader gives them."""
    noise = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (4, 3, 64, 64), generator=noise, dtype=torch.uint8)
    samples = zoo.batch(4, 64, CLASSES, boxes=(3, 2, 0, 1))['data_samples']
    order = order or [0, 1, 2, 3]
    parts = PARTS[dist.get_world_size()]
    first = sum(parts[: dist.get_rank()])
    mine = order[first : first + parts[dist.get_rank()]]
    return dict(
        inputs=[pixels[index] for index in mine], data_samples=[samples[index] for index in mine]
    )


def means(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean of every value over the processes."""
    found = {}
    for name, value in values.items():
        dist.all_reduce(mean := value.detach().clone())
        found[name] = mean / dist.get_world_size()
    return found


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


if __name__ == '__main__':
    sys.exit(main(Path(sys.argv[1])))
