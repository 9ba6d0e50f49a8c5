"""One run of a MONAI engine for one case."""

from __future__ import annotations

import logging
from typing import Any

from ignite.engine import Events
from monai.data import list_data_collate
from monai.engines import Evaluator

Case = dict[str, Any]


def run_engine(engine: Evaluator, case: Case) -> Case:
    """
    Run an evaluator on one case.

    MONAI's engines leave in ``state.output`` what the network and postprocessing made, and in
    ``state.batch`` all other keys, such as ``name``.

    Args:
        engine: a MONAI evaluator, whose data loader is replaced.
        case: a loaded and preprocessed case.

    Returns:
        Everything that was loaded and that came out.
    """
    finished: Case = {}

    def collect() -> None:
        state: Any = engine.state
        finished.update(state.batch[0], **state.output[0])

    engine.data_loader = [list_data_collate([case])]
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
