"""The queue: one job at a time, the others in order, more than fit are refused."""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.app.serving import ENDLESS, MANY, PROMPT, Server


def test_waiting_request_has_its_turn(start_server: Callable[..., Server]) -> None:
    server = start_server(max_new_tokens=MANY, max_queue=1)
    with ThreadPoolExecutor(1) as pool:
        with server.streaming(**ENDLESS) as response:
            response.readline()
            waiting = pool.submit(server.generate, prompt=PROMPT, max_new_tokens=2)
            while server.request("/api/generate", {"prompt": PROMPT, "num_samples": 8})[0] != 429:
                time.sleep(0.01)
            assert not waiting.done()
        assert waiting.result(20)[-1]["event"] == "end"


def resident_memory() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGESIZE")


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


def test_only_one_thread_computes(server: Server) -> None:
    assert sum(thread.name.startswith("compute") for thread in threading.enumerate()) <= 1
