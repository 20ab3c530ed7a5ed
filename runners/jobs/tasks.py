"""Work as asyncio tasks, by key: what the two work runners of a job process have in common."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class TorchThread:
    """The one thread in which torch runs: steps, outer steps and averages take turns, and the loop stays free."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="torch")

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`work`'s result, once it has had its turn."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: work(*args, **kwargs))


class KeyedTasks:
    """Tasks by key. A key at work is left alone; what a task raises, goes to `failed`."""

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failed = failed

    def start(self, key: str, work: Coroutine[Any, Any, None], given_up: Callable[[], None] = lambda: None) -> None:
        """Begin a task under a key, unless one is at work there. `given_up` is told if it is stopped, begun or not."""
        present = self._tasks.get(key)
        # A task that has posted its result and returned is done, although the loop has not said so yet: the core may ask
        # for the next work of this key already. One that was stopped takes a moment to end.
        if present is not None and not present.done() and not present.cancelling():
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[key] = task
        task.add_done_callback(lambda done: self._ended(key, done, given_up))

    def stop(self, key: str) -> None:
        """End the task of a key."""
        task = self._tasks.get(key)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """End all tasks."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, key: str, task: asyncio.Task[None], given_up: Callable[[], None]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
        if task.cancelled():
            given_up()
        elif (error := task.exception()) is not None:
            self._failed(error)
