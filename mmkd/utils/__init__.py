"""What the commands in ``tools/`` share: configs, checks before a run, CPU processes."""

from mmkd.utils.cfg_options import CfgOptions, merge
from mmkd.utils.command_line import (
    add_common_arguments,
    add_recipe_arguments,
    add_schedule_argument,
    build_runner,
    exit_code_of,
    load_config,
    positive_number,
    read_config,
    report_missing,
)
from mmkd.utils.data_root import override_data_root
from mmkd.utils.failures import FirstStep, advice_on, setting_at_fault
from mmkd.utils.fitting import FittingCheckpoint
from mmkd.utils.preflight import PreflightError, check_before_testing, check_before_training
from mmkd.utils.processes import close_process_group, leave, local_rank, prepare_cpu
from mmkd.utils.quiet import quiet_logger, quiet_packages
from mmkd.utils.stopping import Stopping, command_line
from mmkd.utils.student_config import DropDistillWeights, is_distiller, student_config
from mmkd.utils.work_dir import (
    kept_checkpoint,
    lock_work_dir,
    resolve_resume,
    warn_of_overwriting,
)

__all__ = [
    'CfgOptions',
    'DropDistillWeights',
    'FirstStep',
    'FittingCheckpoint',
    'PreflightError',
    'Stopping',
    'add_common_arguments',
    'add_recipe_arguments',
    'add_schedule_argument',
    'advice_on',
    'build_runner',
    'check_before_testing',
    'check_before_training',
    'close_process_group',
    'command_line',
    'exit_code_of',
    'is_distiller',
    'kept_checkpoint',
    'leave',
    'load_config',
    'local_rank',
    'lock_work_dir',
    'merge',
    'override_data_root',
    'positive_number',
    'prepare_cpu',
    'quiet_logger',
    'quiet_packages',
    'read_config',
    'report_missing',
    'resolve_resume',
    'setting_at_fault',
    'student_config',
    'warn_of_overwriting',
]
