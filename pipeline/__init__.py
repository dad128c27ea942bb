"""How tamis runs: jobs, plans, Ray, storage and user interface. Imports the operators; they never import it."""

import os
import sys

if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:
    # `python -m` is looking for the module, and has put the working folder, maybe a folder of data, first on the path.
    del sys.path[0]

if "TAMIS_WORKER" in os.environ:  # set by cluster/session.py; done here because the imports that follow take the time
    from tamis.pipeline.cluster.collecting import collect_rarely

    collect_rarely()
