"""What a CUDA device did in each stage, by torch's profiler; this module is imported only where there is one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch.profiler import ProfilerActivity, profile, record_function

from cp_compress.base.devices import wait_for
from cp_compress.pipeline.running import BACKWARD, Course, Seconds, compute, loading, next_batch, ready

_PREFIX = "cp_compress::"
_MICRO = 1e-6


def device_seconds(course: Course, batches: int) -> Seconds:
    """Return the seconds that the kernels and copies of each stage took on the device in a pass of so many batches.

    What autograd launches, it launches from a thread of its own: kernels of no other stage are those of the backward
    pass.
    """
    with loading(course) as loaded, ready(course):
        for _ in range(course.warm_up):
            inputs, labels, _ = next_batch(loaded)
            compute(course, inputs, labels, lambda name: contextlib.nullcontext())
        wait_for(course.device)
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
            for _ in range(batches):
                inputs, labels, _ = next_batch(loaded)
                compute(course, inputs, labels, _named)
            wait_for(course.device)
    found, everything = dict.fromkeys(course.computing, 0.0), 0.0
    for event in recorded.events():
        name = event.name.removeprefix(_PREFIX)
        if event.device_type.name == "CPU" and event.name != name and name in found:
            found[name] += event.device_time_total * _MICRO
        elif event.device_type.name != "CPU" and event.name == name:
            everything += event.time_range.elapsed_us() * _MICRO
    if BACKWARD in found:
        found[BACKWARD] = max(0.0, everything - sum(value for name, value in found.items() if name != BACKWARD))
    return found


@contextlib.contextmanager
def _named(stage: str) -> Iterator[None]:
    with record_function(f"{_PREFIX}{stage}"):
        yield
