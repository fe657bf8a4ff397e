"""Look inside a model: its attention, its expectations layer by layer, similar tokens.

Each function runs the network once over a short text, without dropout. In shapes: H heads, T tokens
of the text, V vocabulary, D d_model.
"""

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
    maps: list[Tensor] = []

    def record(module: CausalSelfAttention, inputs: tuple[Tensor]) -> None:
        maps.append(module.weights(inputs[0])[0].float().cpu())

    layers = [module for module in net.modules() if isinstance(module, CausalSelfAttention)]
    hooks = [layer.register_forward_pre_hook(record) for layer in layers]
    with eval_mode(net) as device:
        try:
            net.hidden(torch.tensor([ids], device=device))
        finally:
            for hook in hooks:
                hook.remove()
    return maps


@dataclass
class TokenExpectation:
    """What a model predicted at the place of one token."""

    token: int  # the actual token
    probability: float  # of the actual token
    nats: float  # its surprise: -log(probability)
    rank: int  # of the actual token; 1: the most likely
    entropy: float  # of the whole prediction, in nats
    likeliest: list[tuple[int, float]]  # the most likely tokens and their probabilities


@torch.inference_mode()
def token_expectations(
    net: GPT, ids: list[int], vocab_size: int, most: int = 10
) -> list[TokenExpectation]:
    """Return what the model predicted for each token but the first, with the `most` likeliest.

    `ids` are at most one token more than the window. `vocab_size` is that of the tokenizer; ids
    beyond it only pad the model's vocabulary. Raises UserError for a model that diverged.
    """
    if len(ids) < 2:
        return []
    with eval_mode(net) as device:
        logits_TxV = net(torch.tensor([ids[:-1]], device=device))[0, :, :vocab_size].float()
    logprobs_TxV = check_finite_logits(logits_TxV).log_softmax(dim=-1)
    entropy_T = -(logprobs_TxV.exp() * logprobs_TxV).nan_to_num().sum(dim=-1)
    top = logprobs_TxV.topk(min(most, vocab_size), dim=-1)
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


@dataclass
class LogitLens:
    """The prediction after each layer; row 0 is that of the embeddings, before any layer."""

    tokens: list[list[int]]  # the most likely next token, for each row and position
    probabilities: list[list[float]]  # of those tokens
    nats: list[float | None]  # mean loss on the actual tokens; None for a text of one token


@torch.inference_mode()
def logit_lens(net: GPT, ids: list[int], vocab_size: int) -> LogitLens:
    """Apply the final norm and the head to the output of each layer.

    The last row is the model's own prediction. nostalgebraist (2020), "interpreting GPT: the logit
    lens". Arguments as in `token_expectations`, but `ids` are at most the window.
    """
    states: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
        for module in (*net.blocks, net.final_norm)
    ]
    lens = LogitLens([], [], [])
    with eval_mode(net) as device:
        try:
            net.hidden(torch.tensor([ids], device=device))
        finally:
            for hook in hooks:
                hook.remove()
        for x_1xTxD in states:
            logits_TxV = net.head(net.final_norm(x_1xTxD))[0, :, :vocab_size].float()
            logprobs_TxV = check_finite_logits(logits_TxV).log_softmax(dim=-1)
            best = logprobs_TxV.max(dim=-1)
            lens.tokens.append(best.indices.tolist())
            lens.probabilities.append(best.values.exp().tolist())
            actual = logprobs_TxV[range(len(ids) - 1), ids[1:]]
            lens.nats.append(-float(actual.mean()) if len(ids) > 1 else None)
    return lens


@torch.inference_mode()
def nearest_tokens(
    net: GPT, token: int, vocab_size: int, most: int = 10
) -> list[tuple[int, float]]:
    """Find the other tokens with the most similar embeddings, with the cosine similarity."""
    table_VxD = nn.functional.normalize(net.embedding.weight[:vocab_size].float(), dim=-1)
    cosine_V = table_VxD @ table_VxD[token]
    cosine_V[token] = -2  # below any cosine
    top = cosine_V.topk(min(most, vocab_size - 1))
    return list(zip(top.indices.tolist(), top.values.tolist(), strict=True))


def longest_tokens(tokenizer: Tokenizer, ids: list[int], most: int) -> list[int]:
    """Return the longest distinct tokens of a text, to look up their neighbours."""
    distinct = [token for token in dict.fromkeys(ids) if token != tokenizer.eot]
    return sorted(distinct, key=lambda token: -len(decode(tokenizer, [token])))[:most]


def token_label(tokenizer: Tokenizer, token: int) -> str:
    """Spell a token for a plot or a table, with spaces and line breaks at its ends visible."""
    text = decode(tokenizer, [token]) or "⟨end⟩"
    return text.replace("\n", "⏎").replace(" ", "·") if text.strip(" \n") != text else text


def check_finite_logits(logits: Tensor) -> Tensor:
    if not logits.isfinite().all():
        raise UserError("the model's logits are not finite: its training diverged")
    return logits
