"""One run of a MONAI engine for one case."""

from __future__ import annotations

import logging
from typing import Any

from ignite.engine import Events
from monai.data import list_data_collate
from monai.engines import Evaluator
from monai.utils import CommonKeys
from torch import Tensor

Case = dict[str, Any]

_COMPUTED_WITH = (CommonKeys.IMAGE, CommonKeys.LABEL)


def run_engine(engine: Evaluator, case: Case) -> Case:
    """
    Run an evaluator on one case.

    The engine gets only what it computes with: other keys, such as ``name``, may hold what makes no batch.

    Args:
        engine: a MONAI evaluator, whose data loader is replaced.
        case: a loaded and preprocessed case, with ``image``, and as a tensor or not ``label``.

    Returns:
        Everything that was loaded and that came out.
    """
    finished: Case = {}

    def collect() -> None:
        state: Any = engine.state
        finished.update({**case, **state.output[0]})

    tensors = {key: case[key] for key in _COMPUTED_WITH if isinstance(case.get(key), Tensor)}
    engine.data_loader = [list_data_collate([tensors])]
    engine.state.epoch_length = 1
    # Otherwise ignite keeps the ended generator of a run that failed, and the next run does nothing.
    engine.interrupt_resume_enabled = False
    # Ignite logs errors before it raises them; here they become rows.
    engine.logger.addFilter(_is_no_error)
    try:
        with engine.add_event_handler(Events.ITERATION_COMPLETED, collect):
            engine.run()
    finally:
        engine.logger.removeFilter(_is_no_error)
        # The volumes; the next scan is loading.
        engine.data_loader = []
        engine.state.dataloader = engine.state.batch = engine.state.output = None
    return finished


def _is_no_error(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR
