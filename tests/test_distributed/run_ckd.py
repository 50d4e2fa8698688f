"""One of several processes: CKD on its part of given logits, behind a layer that DDP synchronises.

usage: python run_ckd.py PROBLEMS ANSWERS, with torchrun's variables in the environment
"""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmkd.functional import ckd_loss


def main(problems: str, answers: str) -> None:
    dist.init_process_group('gloo')
    rank = dist.get_rank()
    found = []
    for problem in torch.load(problems):
        layer = nn.Linear(*reversed(problem['weight'].shape), bias=False)
        layer.weight = nn.Parameter(problem['weight'].clone())
        layer = DistributedDataParallel(layer)
        inputs, teacher, groups, boxes, images = (
            None if problem[part] is None else problem[part].split(problem['samples'])[rank]
            for part in ('inputs', 'teacher', 'groups', 'boxes', 'images')
        )
        loss = ckd_loss(
            layer(inputs),
            teacher,
            groups=groups,
            boxes=boxes,
            images=images,
            **problem['options'],
        )
        loss.backward()
        dist.all_reduce(mean := loss.detach().clone())
        found.append((mean / dist.get_world_size(), layer.module.weight.grad))
    torch.save(found, f'{answers}.{os.environ["RANK"]}')
    dist.destroy_process_group()


if __name__ == '__main__':
    main(*sys.argv[1:])
