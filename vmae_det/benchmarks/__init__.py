"""The benchmarks of `vmae-det benchmark`, one file per topic, and the synthetic data that they run on.

May import every package except `cli`.
"""
