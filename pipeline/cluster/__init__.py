"""Ray: starting or joining it, pools of workers, trees of tasks, waiting for room, watching for workers that hang.

In: functions and how many GPUs or CPUs each takes. Out: their results, as long as the cluster lives. Nearly all uses of
Ray's private names are here; the other one is in capture/graph.py (ray.data._internal). May import: job and below.
"""
