"""Work by key: one at a time, and the next as soon as the last has posted its result."""

import asyncio

from runners.jobs.tasks import KeyedTasks


async def test_next_work_of_a_key_may_be_asked_for_when_the_last_one_posts() -> None:
    loop = asyncio.get_running_loop()
    tasks = KeyedTasks(lambda error: None)
    done: list[int] = []
    third = asyncio.Event()

    async def work(number: int) -> None:
        done.append(number)
        if number == 3:
            third.set()
        else:
            loop.call_soon(tasks.start, "apply", work(number + 1))  # as a host does with a posted result

    tasks.start("apply", work(1))
    await asyncio.wait_for(third.wait(), 5)
    assert done == [1, 2, 3]


async def test_a_key_at_work_is_left_alone() -> None:
    tasks = KeyedTasks(lambda error: None)
    begun: list[str] = []
    first = asyncio.Event()

    async def work(name: str) -> None:
        begun.append(name)
        first.set()
        await asyncio.Event().wait()

    tasks.start("steps", work("one"))
    tasks.start("steps", work("two"))
    await first.wait()
    await tasks.close()
    assert begun == ["one"]


async def test_what_a_task_raises_is_told() -> None:
    told: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    tasks = KeyedTasks(told.set_result)

    async def work() -> None:
        raise ValueError("no")

    tasks.start("steps", work())
    assert str(await asyncio.wait_for(told, 5)) == "no"


async def test_a_key_that_was_stopped_is_free_at_once() -> None:
    tasks = KeyedTasks(lambda error: None)
    begun, ready = asyncio.Event(), asyncio.Event()

    async def work(started: asyncio.Event) -> None:
        started.set()
        await asyncio.Event().wait()

    tasks.start("steps", work(begun))
    await begun.wait()
    tasks.stop("steps")
    tasks.start("steps", work(ready))
    await asyncio.wait_for(ready.wait(), 5)
    await tasks.close()
