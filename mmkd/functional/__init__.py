"""Distillation losses as plain functions of tensors: PyTorch only, usable from any training loop.

Student first, teacher second, a scalar out. Logits are rows of shape (S, C), one per sample.
"""

from .aekt import aekt_loss
from .at import at_loss
from .box import bckd_box_loss, box_giou_loss, box_l1_loss, ld_loss
from .cc import cc_loss
from .ckd import ckd_loss
from .clkd import clkd_loss
from .comparative_kd import comparative_kd_loss
from .correlation_kd import correlation_kd_loss
from .crd import crd_loss
from .ctkd import ctkd_loss
from .defeat import defeat_loss
from .dist import dist_loss
from .dkd import dkd_loss, nckd, tckd
from .feature import cwd_loss, hcl_loss, pkd_loss
from .fgd import fgd_loss
from .fgfi import fgfi_loss
from .fitnet import fitnet_loss
from .kd import kd_loss
from .mgd import mgd_loss
from .mimic import mimic_loss
from .mlld import mlld_loss
from .nkd import nkd_loss
from .nst import nst_loss
from .ofa import ofa_loss
from .ofd import ofd_loss
from .qfl import qfl_kd_loss
from .quadratic_kd import quadratic_kd_loss
from .rkd import rkd_loss
from .rows import center_rows, standardize_rows, unit_rows
from .similarity import ickd_loss, pkt_loss, sp_loss
from .tf_kd import virtual_logits
from .ttm import ttm_loss
from .vid import vid_loss

__all__ = [
    'aekt_loss',
    'at_loss',
    'bckd_box_loss',
    'box_giou_loss',
    'box_l1_loss',
    'cc_loss',
    'center_rows',
    'ckd_loss',
    'clkd_loss',
    'comparative_kd_loss',
    'correlation_kd_loss',
    'crd_loss',
    'ctkd_loss',
    'cwd_loss',
    'defeat_loss',
    'dist_loss',
    'dkd_loss',
    'fgd_loss',
    'fgfi_loss',
    'fitnet_loss',
    'hcl_loss',
    'ickd_loss',
    'kd_loss',
    'ld_loss',
    'mgd_loss',
    'mimic_loss',
    'mlld_loss',
    'nckd',
    'nkd_loss',
    'nst_loss',
    'ofa_loss',
    'ofd_loss',
    'pkd_loss',
    'pkt_loss',
    'qfl_kd_loss',
    'quadratic_kd_loss',
    'rkd_loss',
    'sp_loss',
    'standardize_rows',
    'tckd',
    'ttm_loss',
    'unit_rows',
    'vid_loss',
    'virtual_logits',
]
