"""The differential test of recursive watches: ``python -m scripts.recursive --help``.

In a random tree with random modes, owners, groups and access lists, which change, each of several users has a recursive
watch, and a watch of the kernel's on every directory below, as far as the kernel lets that user have one. Both must
tell the same. A kernel's watch outlives a permission; so all are removed and set anew after each change of a directory
(made, removed, moved, its permissions changed), while nothing is done.

Not compared:

- IN_ACCESS (docs/parity.md, R1 and R2), and what the kernel tells a directory below of itself, without a name: a
  recursive watch tells that by the directory's name in its parent.
- How often in a row the same event comes: what one side does not tell may be what kept two apart on the other.
- A file that was opened in a directory that has been removed since: nobody can set a watch there any more.

What a change of the watched directory itself tells of it (IN_ATTRIB, IN_MOVE_SELF) is judged afterwards: so it must
come if, and only if, the user can set a watch then.
"""
