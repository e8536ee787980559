"""What the fork server imports, for every worker that comes from it: the workers' own code, and all codecs."""

import gc

gc.disable()  # what is imported stays; looking through it again and again takes a third of the time

from migrated.compression import registry, worker, worker_process  # noqa: E402, F401

registry.problems()  # a codec that cannot be used is told of where it is asked for
gc.freeze()  # a collection in a worker would write to every object, and have its page copied
gc.enable()
