"""A search as a program of its own, so that tests can kill it: `python program.py DIRECTORY CONFIG_JSON`.

A run under a URI is held and published as the pipeline does it; the directory is then not looked at.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from nas_engine.config import make_config
from nas_engine.interrupt import Interrupt
from nas_engine.progress import silent
from nas_engine.run import RunDirectory
from nas_engine.tuning import SearchJob, search
from predictors.cost import make_cost_model
from search_spaces import make_space


def main(directory: str, text: str) -> None:
    config = make_config(json.loads(text))
    shape = {"input_shape": (1, 8, 8), "classes": 10}
    space = make_space(config.space.name, {**shape, **config.space.parameters})
    costs = {name: make_cost_model(name) for name in ("params", "macs")}
    run = RunDirectory(config.directory, config.uri) if config.uri else RunDirectory(Path(directory))
    with Interrupt() as stop, run.locked():
        progress = run.publishing(silent)
        print(search(SearchJob(config, space, run.path, costs, stop=stop, progress=progress)).state)


if __name__ == "__main__":
    main(*sys.argv[1:])
