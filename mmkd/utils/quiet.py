"""What the packages below say that no user can act on, kept off the screen."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from logging import Logger, LogRecord

from mmengine.logging import MMLogger

_OLD = r'(mmengine|mmcv|mmdet|mmpretrain|torch|torchvision)(\.|$)'
_OLD_CLASSES = ('will be deprecated in future.', 'fileio.html#file-io')


def quiet_logger(logger: Logger) -> None:
    """Keep what MMEngine says of its own deprecated classes out of a run's log."""
    logger.addFilter(_is_of_use)


def quiet_packages(scope: str | None) -> None:
    """Import what a run will need of a package, without its remarks on optional parts, and ignore its deprecations.

    Args:
        scope: ``default_scope`` of the run's config.
    """
    for category in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
        warnings.filterwarnings('ignore', category=category, module=_OLD)
    for message in (
        'faster_coco_eval is not installed',  # a metric that no config here names
        'torch.meshgrid: in an upcoming release',
        'Detected pickle protocol',  # of checkpoints that are read safely all the same
        'Detected call of `scheduler.step',  # MMEngine's, while gradients are accumulated
    ):
        warnings.filterwarnings('ignore', message)
    if scope not in ('mmdet', 'mmpretrain') or find_spec(scope) is None:
        return
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            for part in ('datasets', 'evaluation'):
                importlib.import_module(f'{scope}.{part}')
    finally:
        for line in said.getvalue().splitlines():
            if not line.startswith('Could not import OneDL'):
                print(line)


@contextlib.contextmanager
def quiet_evaluation() -> Iterator[None]:
    """Context for an evaluation that is summed up later: of its log only warnings are shown, and nothing is printed."""
    logger = MMLogger.get_current_instance()
    logger.addFilter(_is_warning)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.removeFilter(_is_warning)


def _is_warning(record: LogRecord) -> bool:
    # MMDetection calls it an error that a detector, such as the untrained student, finds nothing.
    return record.levelno >= logging.WARNING and not record.getMessage().endswith(
        'results of the whole dataset is empty.'
    )


def _is_of_use(record: LogRecord) -> bool:
    return not record.getMessage().endswith(_OLD_CLASSES)
