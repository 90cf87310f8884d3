"""The accessor takes signatures and docstrings from the verbs."""

from __future__ import annotations

import inspect
import pydoc

import pytest

import xcvae
from xcvae.accessor import CvaeAccessor

VERBS = ("train", "sample", "evaluate", "diagnose", "augment", "heavy")


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_method_is_that_of_the_verb_without_the_dataset(verb: str) -> None:
    method, function = getattr(CvaeAccessor, verb), getattr(xcvae, verb)
    assert next(iter(inspect.signature(method).parameters)) == "self"
    lines = inspect.getdoc(method).splitlines()
    dropped = [line for line in inspect.getdoc(function).splitlines() if line not in lines]
    assert dropped[0].partition(" ")[0] == "ds"
    assert all(line.startswith("    ") for line in dropped[1:])
    assert f"{verb}(self, " in pydoc.plain(pydoc.render_doc(method))


def test_unknown_option_of_a_method_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'member'"):
        xcvae.tutorial.open_dataset("radklim").cvae.evaluate(None, member=1)
