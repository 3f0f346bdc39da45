"""The examples in the docstrings of the provider's room are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import luma_pipeline.luma

MODULES = [module.name for module in pkgutil.iter_modules(luma_pipeline.luma.__path__, "luma_pipeline.luma.")]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_are_true(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_public_things_have_examples() -> None:
    found = [test for name in MODULES for test in doctest.DocTestFinder().find(importlib.import_module(name))]
    assert sum(bool(test.examples) for test in found) >= 8
