"""Inspect a model: attention, predictions layer by layer, surprise, similar tokens.

Each function runs the network once over a short text, without dropout. In shapes: H heads, T tokens
of the text, V vocabulary, D d_model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gptlab.data.tokenizer import Tokenizer, decode
from gptlab.evaluation.inference import eval_mode
from gptlab.model.gpt import GPT
from gptlab.model.layers import CausalSelfAttention
from gptlab.utils.errors import UserError


@torch.no_grad()
def attention_maps(net: GPT, ids: list[int]) -> list[Tensor]:
    """Return the attention weights (H, T, T) of each layer: the row token attends to the column.

    `ids` are at most `net.config.window` tokens.
    """
    layers = [module for module in net.modules() if isinstance(module, CausalSelfAttention)]
    with eval_mode(net):
        inputs = module_inputs(net, layers, ids)
        pairs = zip(layers, inputs, strict=True)
        return [layer.weights(x_1xTxD)[0].float().cpu() for layer, x_1xTxD in pairs]


def module_inputs(net: GPT, modules: Sequence[nn.Module], ids: list[int]) -> list[Tensor]:
    """Run the network once; return the input (1, T, D) of each of these modules."""
    inputs: list[Tensor] = []
    hooks = [m.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for m in modules]
    try:
        net.hidden_states(torch.tensor([ids], device=next(net.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    return inputs


@dataclass
class TokenExpectation:
    """The model's prediction for one token."""

    token: int  # the actual token
    probability: float  # of the actual token
    nats: float  # its surprise: -log(probability)
    rank: int  # of the actual token; 1: the most likely
    entropy: float  # of the whole prediction, in nats
    likeliest: list[tuple[int, float]]  # the most likely tokens and their probabilities


@torch.inference_mode()
def token_expectations(
    net: GPT, ids: list[int], vocab_size: int, top_k: int = 10
) -> list[TokenExpectation]:
    """Return the prediction for each token but the first, with the `top_k` likeliest tokens.

    `ids` are at most one token more than the window. `vocab_size` is the tokenizer's; ids beyond
    it only pad the model's vocabulary. Raises UserError for a model that diverged.
    """
    if len(ids) < 2:
        return []
    with eval_mode(net) as device:
        logits_TxV = net(torch.tensor([ids[:-1]], device=device))[0, :, :vocab_size].float()
    logprobs_TxV = check_finite_logits(logits_TxV).log_softmax(dim=-1)
    entropy_T = -(logprobs_TxV.exp() * logprobs_TxV).nan_to_num().sum(dim=-1)
    top = logprobs_TxV.topk(min(top_k, vocab_size), dim=-1)
    expectations = []
    for at, token in enumerate(ids[1:]):
        logprob = logprobs_TxV[at, token]
        likeliest = zip(top.indices[at].tolist(), top.values[at].exp().tolist(), strict=True)
        expectations.append(
            TokenExpectation(
                token=token,
                probability=float(logprob.exp()),
                nats=-float(logprob),
                rank=1 + int((logprobs_TxV[at] > logprob).sum()),
                entropy=float(entropy_T[at]),
                likeliest=list(likeliest),
            )
        )
    return expectations


def text_expectations(
    net: GPT, ids: list[int], vocab_size: int, top_k: int = 0
) -> list[TokenExpectation]:
    """Return `token_expectations` of a text of any length, read in consecutive windows."""
    window = net.config.window
    return [
        each
        for start in range(0, len(ids) - 1, window)
        for each in token_expectations(net, ids[start : start + window + 1], vocab_size, top_k)
    ]


@dataclass
class LogitLens:
    """Predictions after each layer; row 0 is predicted from the embeddings, before any layer."""

    tokens: list[list[int]]  # the most likely next token, for each row and position
    probabilities: list[list[float]]  # of those tokens
    nats: list[float | None]  # mean loss on the actual tokens; None for a text of one token


@torch.inference_mode()
def logit_lens(net: GPT, ids: list[int], vocab_size: int) -> LogitLens:
    """Apply the final norm and the head to the output of each layer.

    The last row is the model's own prediction. nostalgebraist (2020), "interpreting GPT: the logit
    lens". Arguments as in `token_expectations`, but `ids` are at most the window.
    """
    lens = LogitLens([], [], [])
    with eval_mode(net):
        for x_1xTxD in module_inputs(net, (*net.blocks, net.final_norm), ids):
            logits_TxV = net.head(net.final_norm(x_1xTxD))[0, :, :vocab_size].float()
            logprobs_TxV = check_finite_logits(logits_TxV).log_softmax(dim=-1)
            best = logprobs_TxV.max(dim=-1)
            lens.tokens.append(best.indices.tolist())
            lens.probabilities.append(best.values.exp().tolist())
            actual = logprobs_TxV[range(len(ids) - 1), ids[1:]]
            lens.nats.append(-float(actual.mean()) if len(ids) > 1 else None)
    return lens


@torch.inference_mode()
def nearest_tokens(net: GPT, token: int, vocab_size: int, top_k: int) -> list[tuple[int, float]]:
    """Find the other tokens with the most similar embeddings, with the cosine similarity."""
    table_VxD = nn.functional.normalize(net.embedding.weight[:vocab_size].float(), dim=-1)
    cosine_V = table_VxD @ table_VxD[token]
    cosine_V[token] = -2  # below any cosine
    top = cosine_V.topk(min(top_k, vocab_size - 1))
    return list(zip(top.indices.tolist(), top.values.tolist(), strict=True))


def longest_tokens(tokenizer: Tokenizer, ids: list[int], count: int) -> list[int]:
    """Return the longest distinct tokens of a text, to look up their neighbors."""
    distinct = [token for token in dict.fromkeys(ids) if token != tokenizer.eot]
    return sorted(distinct, key=lambda token: -len(decode(tokenizer, [token])))[:count]


def token_label(tokenizer: Tokenizer, token: int) -> str:
    """Spell a token for a plot or a table, with spaces and line breaks at its ends visible."""
    text = decode(tokenizer, [token]) or "⟨end⟩"
    return text.replace("\n", "⏎").replace(" ", "·") if text.strip(" \n") != text else text


def check_finite_logits(logits: Tensor) -> Tensor:
    if not logits.isfinite().all():
        raise UserError("the model's logits are not finite: its training diverged")
    return logits
