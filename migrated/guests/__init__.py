"""What can be migrated: guests at the source and at the destination.

:mod:`~migrated.guests.base` says what a guest is; :mod:`~migrated.guests.uri` opens one at the source from
text such as ``demo:/dev/shm/counter.mem``, and finds a paused one again from a durable record;
:mod:`~migrated.guests.target` makes one at the destination from its configuration. This package imports
nothing by itself: the demo guest and the guardian are processes of their own and start quicker so.
"""
