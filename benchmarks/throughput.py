"""What the benchmarks of codecs share: works timed in turns, and a table of them beside a peer and a copy in memory."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import torch
from global_pruning import spread


def time_in_turns(make_works, threads, rounds):
    """Return the seconds of each work of `make_works(pool)` by name: CPU time with one thread, else wall-clock time."""
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    with ThreadPoolExecutor(threads) as pool:
        works = make_works(pool)
        times = {name: [] for name in works}
        for number in range(rounds + 1):
            for name, work in works.items():
                start = clock()
                work()
                if number:  # the first round warms up
                    times[name].append(clock() - start)
    return times


def print_rates(title, times, megabytes, peer, floor):
    """Print rates, and for each work how much faster it is than a peer's and how far from the floor."""
    print(f"\n{title}")
    print(f"{'':26}{'MB/s [min, max]':>26}{f'{peer} / it':>30}{'time / floor':>28}")
    for name, taken in times.items():
        rates = [megabytes / one for one in taken]
        gains = [one / other for one, other in zip(times[peer], taken, strict=True)]
        floors = [one / other for one, other in zip(taken, times[floor], strict=True)]
        print(f"{name:26}{spread(rates, '.0f'):>26}{spread(gains, '.2f'):>30}{spread(floors, '.1f'):>28}", flush=True)


def print_ratios(times, pairs):
    """Print the time of works over that of others in the same round, median and range."""
    for work, peer in pairs:
        ratios = [one / other for one, other in zip(times[work], times[peer], strict=True)]
        print(f"{f'{work} / {peer}':60}{spread(ratios, '.2f'):>22}", flush=True)


def make_images(count, size):
    """Return images (count, 3, size, size), float32 in [0, 1]: shapes of an eighth of the size, and a little noise."""
    generator = torch.Generator().manual_seed(size)
    small = torch.rand(count, 3, max(4, size // 8), max(4, size // 8), generator=generator)
    images = torch.nn.functional.interpolate(small, (size, size), mode="bicubic")
    return (images + 0.01 * torch.randn(images.shape, generator=generator)).clamp(0, 1)
