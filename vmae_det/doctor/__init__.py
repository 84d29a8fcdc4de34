"""The command `vmae-det doctor`: facts about this machine and smoke tests of each part of the toolkit.

May import every package except `benchmarks` and `cli`. `report`, `machine`, `packages` and `isolation` import
neither torch nor a decoder, so that a broken installation is reported too.
"""
