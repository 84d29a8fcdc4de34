"""Command line of the toolkit: `vmae-det COMMAND`, one module per command.

May import every other package.
"""
