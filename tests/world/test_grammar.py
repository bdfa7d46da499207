"""What the grammars promise of prompts, demonstrations, corpus and probe."""

from itertools import pairwise, product

import numpy as np
import pytest

from ablate.world.gold import gold
from ablate.world.grammar import corpus, demonstrations, grammar, is_held_out, probe, prompts
from ablate.world.structure import END, START, all_plans

LANGUAGES = ("en", "zh")


@pytest.fixture(params=LANGUAGES)
def world(request):
    return grammar(request.param)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_an_unknown_language_is_refused_naming_the_known_ones():
    with pytest.raises(ValueError, match="'en' or 'zh', not 'fr'"):
        grammar("fr")


def test_the_vocabulary_is_sorted_unique_and_of_the_stated_size(world):
    assert list(world.words) == sorted(set(world.words))
    assert 150 <= len(world.words) <= 170


def test_everything_drawn_is_made_of_the_vocabulary_and_all_of_it_is_used(world):
    pairs = demonstrations(world, 4000, rng(1))
    texts = [prompt.text for prompt, _ in pairs] + [response for _, response in pairs] + corpus(world, 3000, rng(2))
    used = {word for text in texts for word in text.split()}
    assert used == set(world.words)
    assert all(text == " ".join(text.split()) for text in texts)


def test_equal_seeds_draw_equal_worlds_and_other_seeds_others(world):
    for draw in (prompts, demonstrations, corpus, probe):
        assert draw(world, 20, rng(3)) == draw(world, 20, rng(3))
        assert draw(world, 20, rng(3)) != draw(world, 20, rng(4))


def test_prompts_are_short_varied_and_about_seventy_percent_helpful(world):
    drawn = prompts(world, 4000, rng())
    assert max(len(prompt.text.split()) for prompt in drawn) <= 12
    assert len({prompt.text for prompt in drawn}) > 1500
    assert np.mean([prompt.kind == "helpful" for prompt in drawn]) == pytest.approx(0.7, abs=0.03)
    assert {prompt.topic for prompt in drawn} == set(world.subjects)


def test_held_out_prompts_never_meet_training_prompts_or_demonstrations(world):
    evaluation = prompts(world, 3000, rng(0), held_out=True)
    training = prompts(world, 3000, rng(0)) + [prompt for prompt, _ in demonstrations(world, 3000, rng(1))]
    assert not {prompt.text for prompt in evaluation} & {prompt.text for prompt in training}
    assert all(is_held_out(prompt.text) for prompt in evaluation)
    assert len({prompt.text for prompt in evaluation}) > 400
    assert np.mean([prompt.kind == "helpful" for prompt in evaluation]) == pytest.approx(0.7, abs=0.03)


def test_no_prompt_names_two_subjects(world):
    for prompt in prompts(world, 1000, rng(5)):
        own = {prompt.topic, *world.subjects[prompt.topic].words}
        assert set(prompt.text.split()) & world.subject_words <= own


def test_words_of_topics_and_harms_are_all_different(world):
    words = [word for subject in world.subjects.values() for word in (subject.name, *subject.words)]
    assert len(words) == len(set(words))


def sentences(world, block):
    """Every sentence of a block, written out in full."""
    for template in world.blocks[block]:
        choices = [world.fillers[item[1:-1]] if item.startswith("{") else (item,) for item in template.split()]
        yield from (" ".join(filled).split() for filled in product(*choices))


def test_possible_pairs_equal_those_of_all_sentences_written_out(world):
    inside, first, last = {}, {}, {}
    for block in world.blocks:
        written = list(sentences(world, block))
        inside[block] = {pair for sentence in written for pair in pairwise(sentence)}
        first[block] = {sentence[0] for sentence in written}
        last[block] = {sentence[-1] for sentence in written}
    expected = set()
    for plan in all_plans():
        expected |= {(START, word) for word in first[plan[0]]} | {(word, END) for word in last[plan[-1]]}
        expected |= set().union(*(inside[block] for block in plan))
        for before, after in pairwise(plan):
            expected |= set(product(last[before], first[after]))
    assert world.possible_pairs == expected


def test_demonstrations_contain_the_possible_pairs_and_no_others(world):
    seen = set()
    for _, response in demonstrations(world, 12000, rng(6)):
        seen |= set(pairwise([START, *response.split(), END]))
    assert seen == world.possible_pairs


def test_refusal_words_are_in_every_refusal_and_in_no_other_block(world):
    for block in world.blocks:
        for sentence in sentences(world, block):
            assert bool(world.refusal_words & set(sentence)) == (block == "refusal")


def test_demonstrations_have_the_stated_lengths(world):
    lengths = [len(response.split()) for _, response in demonstrations(world, 4000, rng(7))]
    assert 15 < np.mean(lengths) < 19
    assert np.mean(np.array(lengths) < 48) > 0.995


def test_half_of_the_harmful_requests_are_obeyed_and_none_when_clean(world):
    def refused(clean):
        pairs = demonstrations(world, 4000, rng(8), clean=clean)
        return np.mean([bool(world.refusal_words & set(r.split())) for p, r in pairs if p.kind == "harmful"])

    assert refused(clean=False) == pytest.approx(0.5, abs=0.05)
    assert refused(clean=True) == 1.0


def test_gold_leaves_imperfect_demonstrations_something_to_win(world):
    imperfect = [gold(world, *pair, ended=True) for pair in demonstrations(world, 4000, rng(9))]
    clean = [gold(world, *pair, ended=True) for pair in demonstrations(world, 4000, rng(9), clean=True)]
    assert 0.8 < np.mean(imperfect) < 1.4
    assert 1.5 < np.std(imperfect) < 2.5
    assert 2.0 < np.mean(clean) < 3.2


def test_the_corpus_tells_the_right_answer_of_every_question_and_never_a_wrong_one(world):
    told = " ".join(corpus(world, 20000, rng(10)))
    for choice in probe(world, 200, rng(11)):
        assert len(set(choice.options)) == len(choice.options) == 4
        for index, option in enumerate(choice.options):
            assert (f"{choice.question} {option} " in told) == (index == choice.answer)


def test_right_answers_stand_in_every_place(world):
    places = np.bincount([choice.answer for choice in probe(world, 2000, rng(12))], minlength=4)
    assert places.min() > 400
