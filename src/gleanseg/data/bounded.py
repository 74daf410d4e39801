"""Work on many volumes at once without running out of memory."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

from gleanseg.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")
_SHARE = 0.7  # of the available memory; the rest is left to the file cache and to other programs
_UNKNOWN = 4 << 30  # bytes assumed available where the system does not say


def bounded_map(
    work: Callable[[Item], Result],
    items: Iterable[tuple[Item, int]],
    *,
    num_workers: int,
    memory: int | None = None,
) -> Iterator[tuple[Item, Result]]:
    """Apply a function in threads and yield (item, result) as they finish.

    An item starts when a worker is free and its estimate fits beside those that run; one that fits nowhere runs alone.
    When an item fails, or the caller stops, no further one starts, those that run are waited for, and the error is
    raised.

    Args:
        work: what to do. Numpy and the reading of files release the interpreter's lock. Against processes, threads
            took half the time for many small volumes and a third more for few large ones
            (benchmarks/results/storage.json); they need no start-up, no ``__main__`` guard, and stop cleanly.
        items: each with an estimate of its peak memory in bytes.
        num_workers: threads; 1 works in the caller's thread.
        memory: bytes to share; default 70 % of what is available now.
    """
    if num_workers <= 1:
        for item, _ in items:
            yield item, work(item)
        return
    budget = int(_SHARE * available_memory()) if memory is None else memory
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="volumes")
    running: dict[Future[Result], tuple[Item, int]] = {}
    waiting = iter(items)
    upcoming = next(waiting, None)
    try:
        while running or upcoming is not None:
            while upcoming is not None and len(running) < num_workers:
                used = sum(estimate for _, estimate in running.values())
                if running and used + upcoming[1] > budget:
                    break
                running[pool.submit(work, upcoming[0])] = upcoming
                upcoming = next(waiting, None)
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                item, _ = running.pop(future)
                yield item, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def available_memory() -> int:
    """Bytes that can be used without swapping, within the limits of the container."""
    found = [_meminfo(), _cgroup(Path("/sys/fs/cgroup"), "memory.max", "memory.current")]
    found.append(_cgroup(Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"))
    known = [value for value in found if value is not None]
    return max(0, min(known)) if known else _UNKNOWN


def refuse_too_large(source: Path, num_bytes: int) -> None:
    """Refuse what a header claims before memory is taken for it.

    Raises:
        UserError: more bytes than are available.
    """
    room = available_memory()
    if num_bytes > room:
        raise UserError(
            f"{source}: by its header its voxels take {num_bytes / 2**30:,.1f} GiB of memory, and "
            f"{room / 2**30:,.1f} GiB are available; check the file, or read it on a larger machine"
        )


def num_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _meminfo() -> int | None:
    file = Path("/proc/meminfo")
    if file.is_file():
        for line in file.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" in names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return None


def _cgroup(folder: Path, limit: str, usage: str) -> int | None:
    try:
        bound = (folder / limit).read_text().strip()
        return None if bound == "max" else int(bound) - int((folder / usage).read_text())
    except (OSError, ValueError):
        return None
