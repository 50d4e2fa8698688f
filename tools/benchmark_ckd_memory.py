"""Measure peak memory and time of CKD, whole matrix against chunks, forward and backward.

Memory is what a process of its own held at the peak of one step beyond what it held after a warm-up
with few samples: resident memory on the CPU, PyTorch's allocations on a GPU. Time is the median of
``--repeats`` steps of each form, taking turns in one process: on the CPU the time that its cores
spent on the process, since other work may take turns at the same cores. A form that would not fit into free
memory is skipped, and a line says so.

    python tools/benchmark_ckd_memory.py
    python tools/benchmark_ckd_memory.py --sizes 4096 8192 --chunk-size 512 --device cuda
"""

# PyTorch is imported by the measuring processes only: on Linux a new process starts with the peak
# resident memory of the one that started it, which therefore has to be small.

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

FORMS = ('whole', 'chunked')
BYTES_PER_SIMILARITY = 4
MIB = 2**20


def main() -> None:
    arguments = parse_arguments()
    if arguments.measure:
        measure = measure_memory if arguments.measure == 'memory' else measure_seconds
        print(json.dumps(measure(arguments)))
        return

    print(
        f'chunk size {arguments.chunk_size}, {arguments.classes} classes, {arguments.device}, '
        f'{arguments.threads} CPU thread(s)\n'
    )
    print('| samples | whole MiB | chunked MiB | ratio | whole s | chunked s | ratio |')
    print('|---:|---:|---:|---:|---:|---:|---:|')
    for samples in arguments.sizes:
        needed = BYTES_PER_SIMILARITY * samples**2
        free = free_bytes(arguments.device)
        forms = FORMS
        if needed > 0.9 * free:
            forms = ('chunked',)
            print(
                f'whole at {samples} samples: skipped, needs about {needed / MIB:.0f} MiB of '
                f'{free / MIB:.0f} MiB free',
                file=sys.stderr,
            )
        memory: dict[str, float] = {}
        for form in forms:
            memory |= run_measurement('memory', (form,), samples, arguments)
        seconds = run_measurement('seconds', forms, samples, arguments)
        cells = [*row_cells(memory, '.1f'), *row_cells(seconds, '.3f')]
        print(f'| {samples} | ' + ' | '.join(cells) + ' |', flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--sizes',
        type=int,
        nargs='+',
        default=[256, 512, 1024, 2048, 4096, 8192, 16384, 32768],
        help='numbers of samples',
    )
    parser.add_argument('--classes', type=int, default=80)
    parser.add_argument('--chunk-size', type=int, default=1024)
    parser.add_argument('--repeats', type=int, default=15, help='timed steps of each form')
    parser.add_argument('--threads', type=int, default=1, help='threads PyTorch uses on the CPU')
    parser.add_argument('--device', default='cpu', help='cpu, cuda, cuda:1, ...')
    # How a measuring process is told what to do.
    parser.add_argument('--measure', choices=('memory', 'seconds'), help=argparse.SUPPRESS)
    parser.add_argument('--forms', choices=FORMS, nargs='+', help=argparse.SUPPRESS)
    return parser.parse_args()


def run_measurement(
    what: str, forms: Sequence[str], samples: int, arguments: argparse.Namespace
) -> dict[str, float]:
    """Measure in a fresh process: a number for each form."""
    command = [sys.executable, __file__, '--measure', what, '--sizes', str(samples)]
    for name in ('classes', 'chunk_size', 'repeats', 'threads', 'device'):
        command += [f'--{name.replace("_", "-")}', str(getattr(arguments, name))]
    finished = subprocess.run(
        [*command, '--forms', *forms], capture_output=True, text=True, check=False
    )
    if finished.returncode != 0:
        sys.exit(f'{what} at {samples} samples failed ({finished.returncode}):\n{finished.stderr}')
    return json.loads(finished.stdout)


def measure_memory(arguments: argparse.Namespace) -> dict[str, float]:
    """The peak memory in MiB of one forward and backward pass."""
    import torch

    def peak() -> int:
        if torch.device(arguments.device).type == 'cuda':
            return torch.cuda.max_memory_allocated(arguments.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # it is in KiB

    (form,) = arguments.forms
    seconds_of_step(form, 64, arguments)
    before = peak()
    seconds_of_step(form, arguments.sizes[0], arguments)
    return {form: (peak() - before) / MIB}


def measure_seconds(arguments: argparse.Namespace) -> dict[str, float]:
    """The median time of one forward and backward pass of each form, taking turns."""
    seconds: dict[str, list[float]] = {form: [] for form in arguments.forms}
    for form in arguments.forms:
        seconds_of_step(form, 64, arguments)
    for _ in range(arguments.repeats):
        for form, measured in seconds.items():
            measured.append(seconds_of_step(form, arguments.sizes[0], arguments))
    return {form: statistics.median(measured) for form, measured in seconds.items()}


def seconds_of_step(form: str, samples: int, arguments: argparse.Namespace) -> float:
    import torch

    from mmkd.functional import ckd_loss

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    student, teacher = torch.randn(2, samples, arguments.classes, device=arguments.device)
    student.requires_grad_()
    clock = time.process_time
    if student.is_cuda:
        clock = time.perf_counter
        torch.cuda.synchronize(student.device)
    start = clock()
    chunk_size = arguments.chunk_size if form == 'chunked' else None
    ckd_loss(student, teacher, chunk_size=chunk_size).backward()
    if student.is_cuda:
        torch.cuda.synchronize(student.device)
    return clock() - start


def free_bytes(device: str) -> int:
    if device.startswith('cuda'):
        index = device.partition(':')[2] or '0'
        query = ['nvidia-smi', '--query-gpu=memory.free', '--format=csv,noheader,nounits']
        return int(subprocess.check_output([*query, f'--id={index}'], text=True)) * MIB
    with open('/proc/meminfo') as meminfo:
        kibibytes = {line.split(':')[0]: int(line.split()[1]) for line in meminfo}
    return kibibytes['MemAvailable'] * 1024


def row_cells(measured: dict[str, float], number_format: str) -> list[str]:
    chunked = format(measured['chunked'], number_format)
    if 'whole' not in measured:
        return ['skipped', chunked, '']
    ratio = measured['chunked'] / measured['whole']
    return [format(measured['whole'], number_format), chunked, f'{ratio:.3f}']


if __name__ == '__main__':
    main()
