"""Attention, expectations, the logit lens, similar tokens, and their plots."""

import io
from itertools import chain

import pytest
import torch
import torch.nn.functional as F

from gptlab.evaluation import interpretability, interpretability_plots
from tests.evaluation.conftest import gpt2_net

IDS = [5, 9, 2, 7]
VOCABULARY = 60  # ids of a tokenizer that has fewer than the model


@pytest.mark.fast
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_attention_maps_equal_the_models_weights(norm: str) -> None:
    net = gpt2_net(n_layer=2, norm=norm, position="rotary", attention="eager")
    layers = interpretability.attention_maps(net, IDS)
    assert [tuple(weights.shape) for weights in layers] == [(2, 4, 4)] * 2
    for weights in layers:
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4))
        assert (weights.triu(1) == 0).all()
    # Mixing the values by these weights gives the output of the first layer.
    first = net.blocks[0].attention
    x = net.embed(torch.tensor([IDS]))
    x = net.blocks[0].attention_norm(x) if norm == "pre" else x
    _, _, values = first.queries_keys_values(x)
    mixed = (layers[0][None] @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(first.out(mixed), first(x))
    figure = interpretability_plots.plot_attention(layers[0], ["a", "b", "c", "d"], "layer 0")
    shown = torch.from_numpy(figure.axes[0].images[0].get_array().filled(-1))
    assert shown.shape == (4, 10) and (shown[:, 4:6] == -1).all()  # heads side by side, with a gap
    torch.testing.assert_close(shown[:, :4] ** 2, layers[0][0])
    torch.testing.assert_close(shown[:, 6:] ** 2, layers[0][1])


@pytest.mark.fast
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_expectations_are_the_softmax_of_the_model(norm: str) -> None:
    net = gpt2_net(n_layer=2, norm=norm, dropout=0.5).train()
    expectations = interpretability.token_expectations(net, IDS, VOCABULARY, top_k=3)
    assert net.training and [each.token for each in expectations] == IDS[1:]
    net.eval()
    logits = net(torch.tensor([IDS]))[0, :-1, :VOCABULARY].detach()
    probabilities = logits.softmax(dim=-1)
    for each, row in zip(expectations, probabilities, strict=True):
        assert each.probability == pytest.approx(float(row[each.token]), rel=1e-4)
        order = row.argsort(descending=True).tolist()
        assert order[each.rank - 1] == each.token and [t for t, _ in each.likeliest] == order[:3]
        assert each.entropy == pytest.approx(float(-(row * row.log()).sum()), rel=1e-4)
    nats = F.cross_entropy(logits, torch.tensor(IDS[1:]))
    assert sum(each.nats for each in expectations) / 3 == pytest.approx(float(nats), rel=1e-4)


@pytest.mark.fast
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_the_last_row_of_the_lens_is_the_prediction_of_the_model(norm: str) -> None:
    net = gpt2_net(n_layer=3, norm=norm)
    lens = interpretability.logit_lens(net, IDS, VOCABULARY)
    assert len(lens.tokens) == len(lens.nats) == 4 and len(lens.tokens[0]) == len(IDS)
    best = net(torch.tensor([IDS]))[0, :, :VOCABULARY].softmax(dim=-1).max(dim=-1)
    assert lens.tokens[-1] == best.indices.tolist()
    assert lens.probabilities[-1] == pytest.approx(best.values.tolist(), rel=1e-4)
    nats = [each.nats for each in interpretability.token_expectations(net, IDS, VOCABULARY)]
    assert lens.nats[-1] == pytest.approx(sum(nats) / 3, rel=1e-4)
    # Without its later layers, the model predicts what the lens shows in that row.
    net.blocks = net.blocks[:1]
    best = net(torch.tensor([IDS]))[0, :, :VOCABULARY].argmax(dim=-1)
    assert lens.tokens[1] == best.tolist() and lens.tokens[1] != lens.tokens[-1]
    assert interpretability.logit_lens(net, [5], VOCABULARY).nats[-1] is None


def test_nearest_tokens_have_the_largest_cosine() -> None:
    net = gpt2_net(d_model=4, n_head=1)
    with torch.no_grad():
        net.embedding.weight[:5] = torch.tensor(
            [[1.0, 0, 0, 0], [9, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [-2, 0, 0, 0]]
        )
    near = interpretability.nearest_tokens(net, 0, vocab_size=5, top_k=10)
    assert [token for token, _ in near] == [1, 2, 3, 4]
    assert [cosine for _, cosine in near] == pytest.approx([1, 0.5**0.5, 0, -1])
    assert len(interpretability.nearest_tokens(net, 0, vocab_size=5, top_k=2)) == 2


def test_plots_show_the_numbers() -> None:
    net = gpt2_net(n_layer=2)
    lens = interpretability.logit_lens(net, IDS, VOCABULARY)
    words = [[f"$t{token}" for token in row] for row in lens.tokens]
    figure = interpretability_plots.plot_logit_lens(lens, words, ["$$", "b", "c", "d"], "step 3")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == [*chain(*words)]
    shown = torch.from_numpy(axes.images[0].get_array().filled(-1))
    torch.testing.assert_close(shown, torch.tensor(lens.probabilities), check_dtype=False)
    figure.canvas.draw()  # a token may be $$
    expectations = interpretability.token_expectations(net, IDS, VOCABULARY)
    figure = interpretability_plots.plot_surprise(expectations, ["$b", "c", "d"], "step 3")
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == [each.nats for each in expectations]


@pytest.mark.fast
def test_formulas_in_tokens_are_shown_as_typed() -> None:
    figure = interpretability_plots.plot_attention(torch.eye(2)[None], ["$$", "$x_"], "layer 0")
    figure.savefig(io.BytesIO())
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["$$", "$x_"]
