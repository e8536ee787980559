"""The demo guest: a process whose whole state lives in its memory file, and its two ends of a migration.

``program`` is the guest itself (``python -m migrated.guests.demo``), made of ``layout`` (what lies where in
the file), ``content`` (what a page holds) and ``state`` (changing and proving it). ``source`` and ``target``
are what migrated drives: :class:`migrated.guests.SourceGuest` and :class:`migrated.guests.TargetGuest`.
"""
