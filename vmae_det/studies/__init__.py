"""Studies: grids of runs with several seeds, described in one YAML file, and the statistics of their results.

May import everything except benchmarks, doctor, web and cli.
"""
