"""Contenders that write: the same weights, prompt, number of tokens and sampling."""

import copy
import functools
import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from gptlab.bench import isolated
from gptlab.bench.roofline import reading
from gptlab.bench.timing import time_in_pairs, timed
from gptlab.config.schema import ModelConfig, SamplingConfig
from gptlab.data.tokenizer import GPT2Tokenizer
from gptlab.generation.engine import generate_samples
from gptlab.generation.quantize import quantize_linears
from gptlab.generation.sample import GenerationRequest
from gptlab.model.gpt import GPT, count_parameters
from gptlab.model.hf.gpt2 import to_gpt2_weights

NEW, TOP_K = 256, 50
PROMPT = list(range(1000, 1016))
MODEL = ModelConfig(  # `model=small model.n_layer=4`
    n_layer=4, n_head=12, d_model=768, context_length=1024, vocab_size=50257,
    feed_forward="gelu_tanh",
)  # fmt: skip


def without_a_cache(net: GPT, prompts_BxT: Tensor, new: int) -> Tensor:
    """nanoGPT's loop: all tokens are read again for each new one."""
    for _ in range(new):
        logits_BxV = net.head(net.hidden(prompts_BxT)[:, -1])
        least = logits_BxV.topk(TOP_K).values[:, -1:]
        probabilities_BxV = logits_BxV.masked_fill(logits_BxV < least, -torch.inf).softmax(dim=-1)
        prompts_BxT = torch.cat((prompts_BxT, torch.multinomial(probabilities_BxV, 1)), dim=1)
    return prompts_BxT


def through_transformers(net: GPT, dtype: torch.dtype) -> Callable[[Tensor, int], Tensor]:
    model = isolated.transformers(MODEL).net
    model.load_state_dict(to_gpt2_weights(net.state_dict(), net.config))
    model.to(dtype).eval()
    settings = {"do_sample": True, "top_k": TOP_K, "use_cache": True, "pad_token_id": 0}

    def generate(prompts_BxT: Tensor, new: int) -> Tensor:
        mask = torch.ones_like(prompts_BxT)
        counts = {"max_new_tokens": new, "min_new_tokens": new}
        return model.generate(prompts_BxT, attention_mask=mask, **counts, **settings)

    return generate


def through_litgpt(dtype: torch.dtype) -> Callable[[Tensor, int], Tensor]:
    """One prompt at a time. With weights of its own: its parts are other ones, of the same size."""
    from litgpt.generate.base import generate

    model = isolated.litgpt(MODEL).net.to(dtype).eval()

    def run(prompts_1xT: Tensor, new: int) -> Tensor:
        most = prompts_1xT.shape[1] + new
        model.max_seq_length = most
        model.set_kv_cache(batch_size=1, dtype=dtype)
        return generate(model, prompts_1xT[0], most, top_k=TOP_K)

    return run


def contenders(prompts: int) -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    net = GPT(MODEL).eval()
    prompts_BxT = torch.tensor([PROMPT] * prompts)
    tokenizer = GPT2Tokenizer()
    tokenizer.eot = -1  # nobody ends before the others
    found = {"loop without a cache": lambda: without_a_cache(net, prompts_BxT, NEW)}
    if importlib.util.find_spec("transformers"):
        for dtype in (torch.float32, torch.bfloat16):
            their = through_transformers(net, dtype)
            name = f"transformers, {str(dtype).removeprefix('torch.')}"
            found[name] = lambda their=their: their(prompts_BxT, NEW)
    if importlib.util.find_spec("litgpt") and prompts == 1:
        for dtype in (torch.float32, torch.bfloat16):
            lit = through_litgpt(dtype)
            name = f"litgpt, {str(dtype).removeprefix('torch.')}"
            found[name] = lambda lit=lit: lit(prompts_BxT, NEW)
    for weights in ("float32", "bfloat16", "int8"):
        mine = copy.deepcopy(net)
        quantize_linears(mine, weights)
        sampling = SamplingConfig(top_k=TOP_K)
        request = GenerationRequest(mine, tokenizer, PROMPT, sampling, prompts, NEW)
        found[f"gptlab, weights={weights}"] = functools.partial(generate_samples, request)
    return found


def generation(rounds: int) -> None:
    """256 new tokens by a 4-layer model of GPT-2's width, one prompt and eight."""
    with torch.device("meta"):
        most = reading() / (4 * count_parameters(GPT(MODEL)))
    print(f"  memory is read fast enough for all weights in float32 {most:.0f} times a second")
    for prompts in (1, 8):
        print(f"  {prompts} × {NEW} tokens")
        with torch.inference_mode():
            timings = time_in_pairs({n: timed(f) for n, f in contenders(prompts).items()}, rounds)
        for timing in timings:
            steps = NEW / timing.median
            print(timing.line("s"), f" {prompts * steps:.0f} tokens/s, {steps / most:.0%} of that")
