"""Jobs in threads that start at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


def run_together(*jobs: Callable[[], Any]) -> list[Any]:
    """The results of jobs in threads that start at once; an exception in one is raised here."""
    results: list[Any] = [None] * len(jobs)
    barrier = threading.Barrier(len(jobs))

    def work(i: int) -> None:
        barrier.wait()
        try:
            results[i] = jobs[i]()
        except BaseException as error:
            results[i] = error

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results
