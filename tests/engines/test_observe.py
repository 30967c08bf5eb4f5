"""What engines say of themselves on /metrics. The texts are as the engines write them."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from hocket.engines.embedded import EmbeddedSpec
from hocket.engines.observe import Observed, parse_metrics
from hocket.engines.supervisor import EmbeddedEngine

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 12.0
vllm:num_requests_running{engine="1",model_name="meta-llama/Llama-3.1-8B-Instruct"} 9.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 3.0
vllm:num_requests_waiting{engine="1",model_name="meta-llama/Llama-3.1-8B-Instruct"} 0.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 3.0
# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 0.9342
vllm:kv_cache_usage_perc{engine="1",model_name="meta-llama/Llama-3.1-8B-Instruct"} 0.51
# HELP vllm:time_to_first_token_seconds Histogram of time to first token in seconds.
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.001",model_name="m"} 0.0
"""
OLD_VLLM = """\
vllm:num_requests_running{model_name="m"} 5.0
vllm:num_requests_waiting{model_name="m"} 12.0
vllm:gpu_cache_usage_perc{model_name="m"} 0.35
"""
SGLANG = """\
# HELP sglang:num_running_reqs The number of running requests
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{model_name="meta-llama/Llama-3.1-8B-Instruct"} 162.0
# HELP sglang:gen_throughput The generate throughput (token/s)
# TYPE sglang:gen_throughput gauge
sglang:gen_throughput{model_name="meta-llama/Llama-3.1-8B-Instruct"} 86.50814177726902
# HELP sglang:num_queue_reqs The number of requests in the waiting queue
# TYPE sglang:num_queue_reqs gauge
sglang:num_queue_reqs{model_name="meta-llama/Llama-3.1-8B-Instruct"} 2826.0
# HELP sglang:token_usage The token usage
# TYPE sglang:token_usage gauge
sglang:token_usage{model_name="meta-llama/Llama-3.1-8B-Instruct"} 0.28
"""
SGLANG_IN_PARTS = """\
sglang:num_running_reqs{engine_type="unified",model_name="m",pp_rank="0",priority="",tp_rank="0"} 14.0
sglang:num_running_reqs{engine_type="unified",model_name="m",pp_rank="0",priority="0",tp_rank="0"} 10.0
sglang:num_running_reqs{engine_type="unified",model_name="m",pp_rank="0",priority="4",tp_rank="0"} 4.0
sglang:num_running_reqs{engine_type="unified",model_name="m",pp_rank="0",priority="",tp_rank="1"} 14.0
sglang:num_queue_reqs{engine_type="unified",model_name="m",pp_rank="0",priority="",tp_rank="0"} 2.0
sglang:num_queue_reqs{engine_type="unified",model_name="m",pp_rank="0",priority="0",tp_rank="0"} 2.0
"""
LLAMA_CPP = """\
# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed, excluding cached tokens
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 64
# HELP llamacpp:requests_processing Number of requests processing
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 2
# HELP llamacpp:requests_deferred Number of requests deferred
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred 3
# HELP llamacpp:n_busy_slots_per_decode Average number of busy slots per llama_decode() call
# TYPE llamacpp:n_busy_slots_per_decode gauge
llamacpp:n_busy_slots_per_decode 2
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (VLLM, Observed(21, 3, 0.9342)),
        (OLD_VLLM, Observed(5, 12, 0.35)),
        (SGLANG, Observed(162, 2826, 0.28)),
        (SGLANG_IN_PARTS, Observed(14, 2, None)),
        (LLAMA_CPP, Observed(2, 3, None)),
        ("process_cpu_seconds_total 12.5\n", Observed()),
        ("", Observed()),
        (
            'vllm:num_requests_running{model_name="m"} NaN\nvllm:num_requests_waiting 4 1700000000000\n',
            Observed(None, 4),
        ),
        ("<html>\nvllm:num_requests_running{oops\n</html>", Observed()),
        ("vllm:num_requests_running\n", Observed()),
    ],
    ids=["vllm", "old-vllm", "sglang", "sglang-ranks", "llama.cpp", "others", "empty", "nan", "no-metrics", "cut"],
)
def test_what_an_engine_says(text: str, said: Observed) -> None:
    assert parse_metrics(text) == said


async def test_the_embedded_engine_tells_what_it_works_on_and_what_waits() -> None:
    """Two slots, five calls: it says so itself, and nothing here was written by us."""
    up: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    spec = EmbeddedSpec(weights="small", parallel=2, context=4096, threads=1)
    engine = EmbeddedEngine("small", spec, on_up=lambda _, url: up.set_result(url), on_down=lambda _: None)
    await engine.start()
    try:
        url = await up
        async with aiohttp.ClientSession() as http:
            body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3000, "ignore_eos": True}

            async def call() -> None:
                async with http.post(url + "/v1/chat/completions", json=body) as response:
                    await response.read()

            calls = [asyncio.create_task(call()) for _ in range(5)]
            said = Observed()
            async with asyncio.timeout(20):
                while said.waiting != 3:
                    await asyncio.sleep(0.05)
                    async with http.get(url + "/metrics") as page:
                        said = parse_metrics(await page.text())
            assert said.running == 2
            for task in calls:
                task.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
    finally:
        await engine.stop()
