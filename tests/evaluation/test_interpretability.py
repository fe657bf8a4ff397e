"""Looking inside: what heads look at, what each layer expects, which tokens are alike."""

from itertools import chain
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gptlab.evaluation import interpretability, interpretability_plots
from tests.conftest import TINY
from tests.evaluation.test_evaluation import gpt2_net

IDS = [5, 9, 2, 7]
WORDS = 60  # ids of a tokenizer that has fewer than the table


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_attention_is_what_the_model_computes(norm: str) -> None:
    net = gpt2_net(n_layer=2, norm=norm, position="rotary", attention="eager")
    ids = [5, 9, 2, 7]
    layers = interpretability.attention_maps(net, ids)
    assert [tuple(weights.shape) for weights in layers] == [(2, 4, 4)] * 2
    for weights in layers:
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4))
        assert (weights.triu(1) == 0).all()
    # With values replaced by the weights' own result, the first layer gives the same output.
    first = net.blocks[0].attention
    x = net.embed(torch.tensor([ids]))
    x = net.blocks[0].attention_norm(x) if norm == "pre" else x
    _, _, values = first.queries_keys_values(x)
    mixed = (layers[0][None] @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(first.out(mixed), first(x))
    figure = interpretability_plots.plot_attention(layers[0], ["a", "b", "c", "d"], "layer 0")
    shown = torch.from_numpy(figure.axes[0].images[0].get_array().filled(-1))
    assert shown.shape == (4, 10) and (shown[:, 4:6] == -1).all()  # heads side by side, apart
    torch.testing.assert_close(shown[:, :4] ** 2, layers[0][0])
    torch.testing.assert_close(shown[:, 6:] ** 2, layers[0][1])


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_what_was_expected_is_the_models_softmax(norm: str) -> None:
    net = gpt2_net(n_layer=2, norm=norm, dropout=0.5).train()
    found = interpretability.token_expectations(net, IDS, WORDS, most=3)
    assert net.training and [each.token for each in found] == IDS[1:]
    net.eval()
    logits = net(torch.tensor([IDS]))[0, :-1, :WORDS].detach()
    probabilities = logits.softmax(dim=-1)
    for each, row in zip(found, probabilities, strict=True):
        assert each.probability == pytest.approx(float(row[each.token]), rel=1e-4)
        order = row.argsort(descending=True).tolist()
        assert order[each.rank - 1] == each.token and [t for t, _ in each.likeliest] == order[:3]
        assert each.entropy == pytest.approx(float(-(row * row.log()).sum()), rel=1e-4)
    nats = F.cross_entropy(logits, torch.tensor(IDS[1:]))
    assert sum(each.nats for each in found) / 3 == pytest.approx(float(nats), rel=1e-4)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_the_lens_ends_with_what_the_model_says(norm: str) -> None:
    net = gpt2_net(n_layer=3, norm=norm)
    lens = interpretability.logit_lens(net, IDS, WORDS)
    assert len(lens.tokens) == len(lens.nats) == 4 and len(lens.tokens[0]) == len(IDS)
    best = net(torch.tensor([IDS]))[0, :, :WORDS].softmax(dim=-1).max(dim=-1)
    assert lens.tokens[-1] == best.indices.tolist()
    assert lens.probabilities[-1] == pytest.approx(best.values.tolist(), rel=1e-4)
    told = [each.nats for each in interpretability.token_expectations(net, IDS, WORDS)]
    assert lens.nats[-1] == pytest.approx(sum(told) / 3, rel=1e-4)
    # With its later layers taken away, the model says what the lens shows in that row.
    net.blocks = net.blocks[:1]
    best = net(torch.tensor([IDS]))[0, :, :WORDS].argmax(dim=-1)
    assert lens.tokens[1] == best.tolist() and lens.tokens[1] != lens.tokens[-1]
    assert interpretability.logit_lens(net, [5], WORDS).nats[-1] is None


def test_neighbours_point_the_same_way() -> None:
    net = gpt2_net(d_model=4, n_head=1)
    with torch.no_grad():
        net.embedding.weight[:5] = torch.tensor(
            [[1.0, 0, 0, 0], [9, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [-2, 0, 0, 0]]
        )
    near = interpretability.nearest_tokens(net, 0, vocab_size=5)
    assert [token for token, _ in near] == [1, 2, 3, 4]
    assert [cosine for _, cosine in near] == pytest.approx([1, 0.5**0.5, 0, -1])
    assert len(interpretability.nearest_tokens(net, 0, vocab_size=5, most=2)) == 2


def test_pictures_show_what_was_found() -> None:
    net = gpt2_net(n_layer=2)
    lens = interpretability.logit_lens(net, IDS, WORDS)
    words = [[f"$t{token}" for token in row] for row in lens.tokens]
    figure = interpretability_plots.plot_logit_lens(lens, words, ["$$", "b", "c", "d"], "step 3")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == [*chain(*words)]
    shown = torch.from_numpy(axes.images[0].get_array().filled(-1))
    torch.testing.assert_close(shown, torch.tensor(lens.probabilities), check_dtype=False)
    figure.canvas.draw()  # a token may be $$
    found = interpretability.token_expectations(net, IDS, WORDS)
    figure = interpretability_plots.plot_surprise(found, ["$b", "c", "d"], "step 3")
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == [each.nats for each in found]


def test_a_run_shows_in_tensorboard_what_was_asked(command, tmp_path: Path) -> None:
    looks = "log_interpretability=[attention,logit_lens,surprise,embedding]"
    result = command("train", *TINY, "profile=smoke", "trainer.max_steps=2", "name=looks", looks)
    assert result.code == 0, result.err
    (run,) = (tmp_path / "runs").glob("*looks")
    images = set(EventAccumulator(str(run)).Reload().Tags()["images"])
    assert images == {"attention/layer_0", "inside/logit_lens", "inside/surprise"}
    assert list(run.rglob("metadata.tsv"))
    result = command("train", *TINY, "profile=smoke", "log_interpretability=[lens]")
    assert (
        result.code == 2
        and "log_interpretability=lens" in result.err
        and "logit_lens" in result.err
    )
