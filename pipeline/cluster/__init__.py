"""Ray: starting or joining it, pools of workers, trees of tasks, waiting for room, watching for workers that hang.

In: functions and how many GPUs or CPUs each takes. Out: their results, as long as the cluster lives. All that tamis
knows of Ray's inner names is here. May import: job and below.
"""
