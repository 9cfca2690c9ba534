"""Public benchmarks over any model and any set of search methods, at the same budgets.

``readers`` reads their published files, ``settings`` says what a benchmark of these consists of,
``results`` makes a table of what searches left and judges said, ``page`` shows it. The searches
themselves are those of ``ttsnap search``, in shards by ``rules/bench.smk``.
"""
