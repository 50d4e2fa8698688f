"""Batch norm for the layers that a loss trains."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class TolerantBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that also trains on a single value per channel.

    The last batch of an epoch may be a single image, and the deepest level of a neck a single cell (SSD's always is).
    One value has no variance, so PyTorch's batch norm raises an error. This one then normalises by its running
    statistics and does not update them.
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
