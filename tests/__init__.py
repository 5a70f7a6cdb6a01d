"""The tests; with `CLUTCH_MUTANT=name` in the environment, those of a library with that fault planted in it."""

import os

if "CLUTCH_MUTANT" in os.environ:
    # Here, for this is imported before any test or any actor of a worker process has imported the library.
    from tests.mutants import mutant_named
    from tests.support.mutation import plant

    plant(mutant_named(os.environ["CLUTCH_MUTANT"]))
