"""The command line: one module a command, thin ones; what a command needs is imported when it runs.

``main`` puts them together; ``helptext`` lays help out; ``errors`` ends a command with one clear line;
``run`` has what several commands share. A command's function is its interface: its docstring is the help, and
raising a :class:`migrated.errors.MigratedError` is how it fails.
"""
