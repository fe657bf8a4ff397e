"""The queue: one job at a time, the others in order, more than fit are refused."""

import asyncio
import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest

from gptlab.app.job_queue import JobQueue, QueueFull
from gptlab.utils.device import resident_memory
from tests.app.serving import PROMPT, Server


@pytest.mark.fast
def test_waiting_job_runs_when_the_running_one_is_left_and_more_are_refused() -> None:
    async def run() -> list[int]:
        queue = JobQueue(max_queue=1)
        running = queue.run(count)
        assert await anext(running) == [0]
        waiting = asyncio.ensure_future(anext(queue.run(iter_three)))
        await asyncio.sleep(0)
        assert queue.num_jobs == 2 and not waiting.done()
        with pytest.raises(QueueFull, match="try again"):
            await anext(queue.run(iter_three))
        await running.aclose()
        return await asyncio.wait_for(waiting, 5)

    def count():
        yield from itertools.count()

    def iter_three():
        yield from range(3)

    assert asyncio.run(run()) == [0]


def test_fifty_clients_at_once_are_answered_in_constant_memory(server: Server) -> None:
    def request(seed: int) -> int:
        content = {"prompt": PROMPT, "max_new_tokens": 20, "seed": seed}
        return server.request("/api/generate", content)[0]

    memory = []
    with ThreadPoolExecutor(50) as pool:
        for _ in range(4):
            statuses = list(pool.map(request, range(50)))
            assert set(statuses) <= {200, 429} and statuses.count(200) >= 5
            memory.append(resident_memory())
    assert memory[-1] - memory[0] < 30e6
    assert server.generate(prompt=PROMPT, max_new_tokens=1)
