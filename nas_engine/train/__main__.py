"""`torchrun ... -m nas_engine.train CONFIG`: the shared weights of a run, trained by processes of several machines."""

from __future__ import annotations

import sys

from .processes import main

sys.exit(main(sys.argv[1:]))
