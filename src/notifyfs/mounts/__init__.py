"""Everything about mounting a FUSE descriptor on this machine.

Law: nothing here touches a file *through* a FUSE mount, for its daemon may be dead,
stuck or this very process. The mount table and the registry answer instead.
"""

from notifyfs.mounts.guard import Guard, guarded
from notifyfs.mounts.kernel import attach, detach, raise_background
from notifyfs.mounts.mountinfo import MountError
from notifyfs.mounts.registry import register, run_directory, socket_path, unregister
from notifyfs.mounts.table import Mount, check, check_files, ending, find, mounted, recover

__all__ = [
    "Guard",
    "Mount",
    "MountError",
    "attach",
    "check",
    "check_files",
    "detach",
    "ending",
    "find",
    "guarded",
    "mounted",
    "raise_background",
    "recover",
    "register",
    "run_directory",
    "socket_path",
    "unregister",
]
