"""Training, evaluation and launching: the loop, its hooks, and the processes that run it, for all tasks.

May import: data, solver, checkpoint, evaluation, modeling, config and utils.
"""
