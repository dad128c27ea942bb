"""How it runs: jobs, plans, Ray, storage and people. Imports the operators; they never import it."""

import os

if "TAMIS_WORKER" in os.environ:  # set by ray_start.py; now, as the imports that follow are what takes the time
    from tamis.pipeline.collecting import collect_rarely

    collect_rarely()
