"""Measure peak memory and time of CKD, whole matrix against chunks, forward and backward.

Each measurement runs in a process of its own. The two forms take turns, ``--repeats`` times; the
table shows the largest memory and the shortest time of each. Memory is what the process held at
its peak beyond what it held after a warm-up with few samples: resident memory on the CPU, PyTorch's
allocations on a GPU. A run that would not fit into free memory is skipped, and a line says so.

    python tools/benchmark_ckd_memory.py
    python tools/benchmark_ckd_memory.py --sizes 4096 8192 --chunk-size 512 --device cuda
"""

# PyTorch is imported by the measuring processes only: on Linux a new process starts with the peak
# resident memory of the one that started it, which therefore has to be small.

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

FORMS = ('plain', 'chunked')
# The plain form's backward pass holds the softmax, its gradient and the gradient of the logits.
PLAIN_MATRICES = 3
BYTES_PER_LOGIT = 4
MIB = 2**20


def main() -> None:
    arguments = parse_arguments()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.sizes[0], arguments)))
        return

    print(
        f'chunk size {arguments.chunk_size}, {arguments.classes} classes, {arguments.device}, '
        f'{arguments.threads} CPU thread(s)\n'
    )
    print('| samples | plain MiB | chunked MiB | ratio | plain s | chunked s | ratio |')
    print('|---:|---:|---:|---:|---:|---:|---:|')
    for samples in arguments.sizes:
        forms = list(FORMS)
        needed = PLAIN_MATRICES * BYTES_PER_LOGIT * samples**2
        free = free_bytes(arguments.device)
        if needed > 0.9 * free:
            forms.remove('plain')
            print(
                f'plain at {samples} samples: skipped, needs about {needed / MIB:.0f} MiB of '
                f'{free / MIB:.0f} MiB free',
                file=sys.stderr,
            )
        runs: dict[str, list[dict[str, float]]] = {form: [] for form in forms}
        for _ in range(arguments.repeats):
            for form in forms:
                runs[form].append(run_measurement(form, samples, arguments))
        print(table_row(samples, runs), flush=True)


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
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--threads', type=int, default=1, help='threads PyTorch uses on the CPU')
    parser.add_argument('--device', default='cpu', help='cpu, cuda, cuda:1, ...')
    # How a measuring process is told what to do.
    parser.add_argument('--measure', choices=FORMS, help=argparse.SUPPRESS)
    return parser.parse_args()


def run_measurement(form: str, samples: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Run :func:`measure` in a fresh process."""
    command = [sys.executable, __file__, '--measure', form, '--sizes', str(samples)]
    for name in ('classes', 'chunk_size', 'threads', 'device'):
        command += [f'--{name.replace("_", "-")}', str(getattr(arguments, name))]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        sys.exit(f'{form} at {samples} samples failed ({finished.returncode}):\n{finished.stderr}')
    return json.loads(finished.stdout)


def measure(form: str, samples: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Return the peak memory in bytes and the seconds of one forward and backward pass."""
    import torch

    from mmkd.functional import ckd_loss

    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    on_gpu = device.type == 'cuda'

    def seconds_of_step(rows: int) -> float:
        student, teacher = torch.randn(2, rows, arguments.classes, device=device)
        student.requires_grad_()
        start = time.perf_counter()
        chunk_size = arguments.chunk_size if form == 'chunked' else None
        ckd_loss(student, teacher, chunk_size=chunk_size).backward()
        if on_gpu:
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    def peak() -> int:
        if on_gpu:
            return torch.cuda.max_memory_allocated(device)
        kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return kibibytes * 1024

    torch.manual_seed(0)
    seconds_of_step(64)
    before = peak()
    seconds = [seconds_of_step(samples)]
    peak_bytes = peak() - before
    while sum(seconds) < 1.0:
        seconds.append(seconds_of_step(samples))
    return {'bytes': peak_bytes, 'seconds': min(seconds)}


def free_bytes(device: str) -> int:
    if device.startswith('cuda'):
        index = device.partition(':')[2] or '0'
        query = ['nvidia-smi', '--query-gpu=memory.free', '--format=csv,noheader,nounits']
        return int(subprocess.check_output([*query, f'--id={index}'], text=True)) * MIB
    with open('/proc/meminfo') as meminfo:
        kibibytes = {line.split(':')[0]: int(line.split()[1]) for line in meminfo}
    return kibibytes['MemAvailable'] * 1024


def table_row(samples: int, runs: dict[str, list[dict[str, float]]]) -> str:
    memory = {form: max(run['bytes'] for run in done) / MIB for form, done in runs.items()}
    seconds = {form: min(run['seconds'] for run in done) for form, done in runs.items()}
    if 'plain' not in runs:
        cells = ['skipped', f'{memory["chunked"]:.1f}', '', 'skipped']
        cells += [f'{seconds["chunked"]:.3f}', '']
    else:
        cells = [f'{memory["plain"]:.1f}', f'{memory["chunked"]:.1f}']
        cells += [f'{memory["chunked"] / memory["plain"]:.3f}']
        cells += [f'{seconds["plain"]:.3f}', f'{seconds["chunked"]:.3f}']
        cells += [f'{seconds["chunked"] / seconds["plain"]:.2f}']
    return f'| {samples} | ' + ' | '.join(cells) + ' |'


if __name__ == '__main__':
    main()
