"""Readers of what the kernel states, one file per kernel subsystem, in the kernel's own names; no decisions here.

Nothing in this package raises because a file is unreadable, malformed or gone: the fact becomes an
:class:`safedlv.model.Unknown` that names the errno (or ``MALFORMED``) and the file.  Only :mod:`.procfs`, which
every attach loads, raises :class:`OSError`; :mod:`.reading` turns those into facts.
"""
