"""Imports what trainings and evaluations import; the fork server of :mod:`mmkd.experiments.jobs` starts with this."""

import importlib

from mmkd.utils import quiet_packages

for _package in ('mmdet', 'mmpretrain'):
    quiet_packages(_package)
for _module in ('mmdet.models', 'mmkd.models', 'mmkd.cli.train', 'mmkd.cli.test', 'mmkd.cli.cache'):
    importlib.import_module(_module)
