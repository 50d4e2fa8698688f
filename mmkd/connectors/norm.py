"""Batch norm for what a loss trains."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class TolerantBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that training does not stop at where a channel has one value only.

    The last batch of an epoch may be a single image, and the deepest level of a neck a single cell (SSD's always is).
    One value has no variance: PyTorch's batch norm raises an error there. This one takes its running statistics, and
    leaves them as they are.
    """

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        if self.training and features.numel() == self.num_features:
            return F.batch_norm(
                features,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                eps=self.eps,
            )
        return super().forward(features)
