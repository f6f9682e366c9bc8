"""``safedlv seccomp lint``: will a debugger be able to attach under what a file says? Pure: texts in, values out.

text -> tree (YAML, JSON) or words (docker run) -> :class:`~safedlv.lint.values.Container`, the same for every format
-> rules, as a table -> findings, each with the edits that mend it -> the text with those edits made, or an override.

What counts as attaching is what a person would type: ``docker exec`` (``kubectl exec``) into the container, as the user
that it runs as, and dlv there. What the host decides (Yama, its kernel, its security modules) no file says: a finding
whose truth hangs on that is a note, and a note never makes a file bad.
"""
