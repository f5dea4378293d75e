"""The other end of the control socket, blocking.

Law: of ours it loads ``protocol`` alone, and neither pyfuse3, trio nor attrs: any program may import it.
"""

from notifyfs.client.batches import Rename
from notifyfs.client.blocking import Connection, find_socket
from notifyfs.client.filters import Filter
from notifyfs.client.inotify import Event, INotify, parse_events
from notifyfs.protocol.flags import flags, masks

__all__ = ["Connection", "Event", "Filter", "INotify", "Rename", "find_socket", "flags", "masks", "parse_events"]
