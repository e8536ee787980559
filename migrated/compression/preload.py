"""What the fork server imports, for every worker that comes from it: the workers' own code, and all codecs."""

import gc

from migrated.compression import registry, worker  # noqa: F401

registry.problems()  # a codec that cannot be used is told of where it is asked for
gc.freeze()  # a collection in a worker would write to every object, and have its page copied
