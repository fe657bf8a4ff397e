"""Seeds derived from numbers."""

import pytest

from gptlab.utils.hashing import derive_seed


@pytest.mark.fast
def test_seeds_depend_on_their_numbers_only() -> None:
    assert derive_seed(1, 2) == derive_seed(1, 2) != derive_seed(2, 1)
    assert 0 <= derive_seed(1337) < 2**63
