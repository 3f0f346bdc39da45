"""The garbage collector has everything back when a run has asked."""

from __future__ import annotations

import contextlib
import gc

from luma_pipeline.engine.garbage import imports_left_out


def test_objects_are_left_out_until_the_last_block_ends() -> None:
    assert gc.get_freeze_count() == 0
    with contextlib.suppress(ZeroDivisionError), imports_left_out():
        with imports_left_out():
            pass
        assert gc.get_freeze_count() > 1000
        raise ZeroDivisionError
    assert gc.get_freeze_count() == 0


def test_what_the_caller_has_frozen_stays_so() -> None:
    gc.freeze()
    try:
        with imports_left_out():
            pass
        assert gc.get_freeze_count() > 1000
    finally:
        gc.unfreeze()
