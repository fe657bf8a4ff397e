"""Generation with the same weights, prompt, number of tokens and sampling."""

import copy
import importlib.util
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from gptlab.bench.reference_loops import litgpt_model, transformers_model
from gptlab.bench.roofline import memory_bandwidth
from gptlab.bench.timing import Timing, compare_timings, timed
from gptlab.config.schema import ModelConfig, SamplingConfig
from gptlab.data.tokenizer import GPT2Tokenizer
from gptlab.generation.engine import generate_samples
from gptlab.generation.quantize import quantize_linears
from gptlab.generation.sample import GenerationRequest
from gptlab.model.gpt import GPT, count_parameters
from gptlab.model.hf.gpt2 import to_gpt2_weights

NEW_TOKENS, TOP_K = 256, 50
PROMPT = list(range(1000, 1016))
MODEL = ModelConfig(  # `model=small model.n_layer=4`
    n_layer=4, n_head=12, d_model=768, context_length=1024, vocab_size=50257,
    feed_forward="gelu_tanh",
)  # fmt: skip

Generator = Callable[[Tensor, int], Tensor]  # (B, T) prompts, new tokens -> (B, T + new)


def nanogpt_generate(net: GPT, prompts_BxT: Tensor, new_tokens: int) -> Tensor:
    """Generate as nanoGPT does, without a cache: read the whole text again for each new token."""
    for _ in range(new_tokens):
        logits_BxV = net.head(net.hidden_states(prompts_BxT)[:, -1])
        threshold_Bx1 = logits_BxV.topk(TOP_K).values[:, -1:]
        kept_BxV = logits_BxV.masked_fill(logits_BxV < threshold_Bx1, -torch.inf)
        next_Bx1 = torch.multinomial(kept_BxV.softmax(-1), 1)
        prompts_BxT = torch.cat((prompts_BxT, next_Bx1), dim=1)
    return prompts_BxT


def transformers_generator(net: GPT, dtype: torch.dtype) -> Generator:
    model = transformers_model(MODEL).net
    model.load_state_dict(to_gpt2_weights(net.state_dict(), net.config))
    model.to(dtype).eval()
    settings = {"do_sample": True, "top_k": TOP_K, "use_cache": True, "pad_token_id": 0}

    def generate(prompts_BxT: Tensor, new_tokens: int) -> Tensor:
        mask = torch.ones_like(prompts_BxT)
        length = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
        return model.generate(prompts_BxT, attention_mask=mask, **length, **settings)

    return generate


def litgpt_generator(dtype: torch.dtype) -> Generator:
    """Make litgpt's generator for one prompt, with random weights of the same size."""
    from litgpt.generate.base import generate

    model = litgpt_model(MODEL).net.to(dtype).eval()

    def run(prompts_1xT: Tensor, new_tokens: int) -> Tensor:
        length = prompts_1xT.shape[1] + new_tokens
        model.max_seq_length = length
        model.set_kv_cache(batch_size=1, dtype=dtype)
        return generate(model, prompts_1xT[0], length, top_k=TOP_K)

    return run


def make_contenders(num_prompts: int) -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    net = GPT(MODEL).eval()
    prompts_BxT = torch.tensor([PROMPT] * num_prompts)
    tokenizer = GPT2Tokenizer()
    tokenizer.eot = -1  # all contenders generate the same number of tokens
    generators: dict[str, Generator] = {"loop without a cache": partial(nanogpt_generate, net)}
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        if importlib.util.find_spec("transformers"):
            generators[f"transformers, {name}"] = transformers_generator(net, dtype)
        if importlib.util.find_spec("litgpt") and num_prompts == 1:
            generators[f"litgpt, {name}"] = litgpt_generator(dtype)
    contenders: dict[str, Callable[[], object]] = {
        name: partial(generate, prompts_BxT, NEW_TOKENS) for name, generate in generators.items()
    }
    for weights in ("float32", "bfloat16", "int8"):
        quantized = copy.deepcopy(net)
        quantize_linears(quantized, weights)
        sampling = SamplingConfig(top_k=TOP_K)
        request = GenerationRequest(quantized, tokenizer, PROMPT, sampling, num_prompts, NEW_TOKENS)
        contenders[f"gptlab, weight_dtype={weights}"] = partial(generate_samples, request)
    return contenders


def max_steps_per_second() -> float:
    """Return how often per second the machine can read all float32 weights from memory.

    Each new token needs all of them, so an uncompressed model cannot generate faster.
    """
    with torch.device("meta"):
        net = GPT(MODEL)
    return memory_bandwidth() / (4 * count_parameters(net))


def generation(rounds: int) -> None:
    """256 new tokens by a 4-layer model of GPT-2's width, for one prompt and for eight."""
    limit = max_steps_per_second()
    print(f"  limit: all float32 weights can be read from memory {limit:.0f} times a second")
    for num_prompts in (1, 8):
        print(f"  {num_prompts} × {NEW_TOKENS} tokens")
        contenders = make_contenders(num_prompts)

        def rate(timing: Timing, num_prompts: int = num_prompts) -> str:
            steps = NEW_TOKENS / timing.median
            return f"{num_prompts * steps:.0f} tokens/s, {steps / limit:.0%} of the limit"

        timed_contenders = {name: timed(run) for name, run in contenders.items()}
        with torch.inference_mode():
            compare_timings(timed_contenders, rounds, "s", rate)
