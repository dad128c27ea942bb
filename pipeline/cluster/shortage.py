"""What a run that cannot keep its processes alive may have run short of: disk space for Ray's files, or memory."""

from __future__ import annotations

import shutil
from contextlib import suppress

from tamis.pipeline.cluster import own_ray

FULL_BYTES = own_ray.LEAST_BYTES
"""With less free space than this, Ray's processes fail at any time."""


def shortage(otherwise: str = "the nodes may lack memory") -> str:
    """The likely reason, for a message. otherwise: if the disk has space, as far as is known: the disks of a cluster
    that was joined are not looked at."""
    folder = own_ray.folder_in_use()
    if folder is not None:
        with suppress(OSError):
            free = shutil.disk_usage(folder).free
            if free < FULL_BYTES:
                return (
                    f"the disk of {folder.parent}, where Ray has its files, is full ({free >> 20} MB are free): free "
                    "some there, or set RAY_TMPDIR to another folder"
                )
    return otherwise
