"""How it runs: jobs, plans, Ray, storage and people. Imports the operators; they never import it."""

import os
import sys

if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:
    # `python -m` looks for what to run, and has put the working folder before all others. That may be a data set's.
    del sys.path[0]

if "TAMIS_WORKER" in os.environ:  # set by cluster/session.py; now, as the imports that follow are what takes the time
    from tamis.pipeline.cluster.collecting import collect_rarely

    collect_rarely()
