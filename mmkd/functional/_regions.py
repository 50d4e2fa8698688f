"""Masks of the cells that belong to objects, for a whole batch at once and without a canvas per object."""

from __future__ import annotations

import torch
from torch import Tensor

FINEST_SCALE = 14
"""FPN's rule for objects: of twice this side, in cells of the first level, and more they belong to the second level."""


@torch.no_grad()
def paint_boxes(
    cells: Tensor, images: Tensor, values: Tensor, shape: tuple[int, int, int]
) -> Tensor:
    """The largest value of the boxes that cover a cell, 0 where there is none.

    Args:
        cells: Shape (G, 4), integers: first column, first row, last column, last row, both ends inside. What lies
            outside of the map is left out.
        images: Shape (G,), the index of the image that a box is of.
        values: Shape (G,), not negative.
        shape: B, H, W.

    Returns:
        (B, H, W) of the type of ``values``.
    """
    batch, height, width = shape
    row = torch.arange(height, device=cells.device)
    covers = (cells[:, 1:2] <= row) & (row <= cells[:, 3:])
    painted = paint_rows(
        (images[:, None] * height + row).flatten(),
        cells[:, :1].expand_as(covers).flatten(),
        cells[:, 2:3].expand_as(covers).flatten(),
        (values[:, None] * covers).flatten(),
        (batch * height, width),
    )
    return painted.view(shape)


@torch.no_grad()
def paint_rows(
    rows: Tensor, first: Tensor, last: Tensor, values: Tensor, shape: tuple[int, int]
) -> Tensor:
    """The largest value of the intervals that cover a cell of a row, 0 where there is none.

    An interval is the union of two whose length is a power of two. Those of one length are written to a table where
    they begin, and each table is handed on to that of half the length: the work is that of log2(W) maps, however many
    intervals there are.

    Args:
        rows: Shape (K,), the row of an interval.
        first: Shape (K,), integers, its first cell; cells outside of the row are left out.
        last: Shape (K,), its last cell, inside; an interval with ``last < first`` covers nothing.
        values: Shape (K,), not negative.
        shape: Number of rows, and width W.

    Returns:
        (rows, W) of the type of ``values``.
    """
    height, width = shape
    first, last = first.clamp(min=0), last.clamp(max=width - 1)
    length = last - first + 1
    values = values * (length > 0)
    first, length = first.clamp(max=width - 1), length.clamp(min=1)
    levels = width.bit_length()
    powers = 2 ** torch.arange(levels, device=rows.device)
    level = torch.bucketize(length, powers, right=True) - 1
    start = (level * height + rows) * width
    index = torch.cat([start + first, start + first + length - powers[level]])
    table = values.new_zeros(levels * height * width)
    table = table.scatter_reduce(0, index, values.repeat(2), 'amax')
    painted, *finer = table.view(levels, height, width).flip(0).unbind()
    for number, table in enumerate(finer):
        half = 2 ** (levels - 2 - number)
        shifted = torch.nn.functional.pad(painted[:, : width - half], (half, 0))
        painted = torch.maximum(torch.maximum(table, painted), shifted)
    return painted
