"""The transformer examples: gradients against central differences, a loss that falls."""

import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "examples"


@pytest.fixture(scope="module", autouse=True)
def examples():
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


def test_gradients_of_a_transformer_block_against_differences():
    import transformer_block

    for seed in range(3):
        difference = transformer_block.largest_difference(seed=seed)
        assert difference < 1e-6
        print(f"{difference:.1e}")


def test_a_character_model_learns():
    import character_model

    model, characters, losses = character_model.train(steps=25)
    assert losses[0] == pytest.approx(np.log(len(characters)), rel=0.1)
    assert losses[-1] < 0.75 * losses[0]
    text = model.write(np.array([1, 2, 3]), 5, np.random.default_rng(0))
    assert len(text) == 8 and text.max() < len(characters)
