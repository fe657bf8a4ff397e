"""Variety and correctness of texts, BLEU and ROUGE of continuations."""

import pytest

from gptlab.data.toy.stories import story_grammar
from gptlab.evaluation.bleu_rouge import compare_continuations
from gptlab.evaluation.text_quality import measure_text_quality, training_words


def test_the_grammar_recognizes_its_own_stories() -> None:
    real = [story_grammar().generate(3, number).text for number in range(4)]
    broken = [real[0] + " And", "Once upon a time"]
    known = training_words(real)
    quality = measure_text_quality(
        [*real, *broken], [True] * 4 + [False] * 2, known, story_grammar().log_probability
    )
    assert quality.grammatical == pytest.approx(4 / 6) and quality.ended == pytest.approx(4 / 6)
    assert quality.nats == pytest.approx(-sum(map(story_grammar().log_probability, real)) / 4)
    assert quality.unknown_words == 0.0
    assert measure_text_quality(["a xyzzy"], [True], {"a"}, None).unknown_words == 0.5


def test_variety_is_counted_over_all_texts() -> None:
    same = measure_text_quality(["the fox ran"] * 4, [True] * 4, set(), None)
    assert same.distinct_1 == 3 / 12 and same.distinct_2 == 2 / 8 and same.words == 3
    again = measure_text_quality(["a b c d a b c d e"], [True], set(), None)
    assert again.repeated_4 == pytest.approx(1 / 6)  # one of six 4-grams came before
    assert again.grammatical is None


def test_bleu_and_rouge_have_a_floor_and_the_score_of_real_endings() -> None:
    real = ["the fox ran home to bed", "a bird sang in the tall tree", "we ate some warm soup"]
    scores = compare_continuations(real, real)
    assert scores["bleu_rouge"] == {"bleu": 1.0, "rouge_1": 1.0, "rouge_l": 1.0}
    assert scores["bleu_rouge_shuffled"]["rouge_l"] < 0.3
    others = scores["bleu_rouge_other_real"]["rouge_1"]
    assert others == pytest.approx(scores["bleu_rouge_shuffled"]["rouge_1"])
