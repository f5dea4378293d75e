"""What each user holds of what is limited: instances, watches, filters, queued events, large buffers."""

from __future__ import annotations

import errno
import sys
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

import attrs

from notifyfs.core import filters
from notifyfs.core.queue import Room
from notifyfs.protocol.flags import X_ORIGIN, X_RECURSIVE

if TYPE_CHECKING:
    from notifyfs.core.filters import Matcher
    from notifyfs.core.instances import Instance, Watch


MOST_RECURSIVE: Final = 256
"""Recursive watches of one user: an event below all of them is told, and judged, for each."""
MOST_LARGE: Final = 8
"""Event descriptors with a large buffer, of a user who is neither root nor the daemon's."""


@attrs.frozen(kw_only=True)
class Limits:
    """Mount options of the same names; the defaults of those that Linux has are its (inotify(7), /proc interfaces)."""

    max_queued_events: int = 16384
    max_user_instances: int = 128
    max_user_watches: int = 1048576
    max_user_queued_bytes: int = 64 << 20


@attrs.define
class _User:
    instances: int = 0
    watches: int = 0
    recursive: int = 0
    """Those of them that cover a tree."""
    filters: int = 0
    """What the filters cost."""
    drafts: int = 0
    """What those cost that no watch has taken yet."""
    large: int = 0
    """Event descriptors with a large buffer."""


class Shared:
    """What all instances of one user have together, for as long as there is any."""

    __slots__ = ("__weakref__", "room", "verdicts")

    def __init__(self, most: int) -> None:
        self.room = Room(most)
        """For the events that wait."""
        self.verdicts: filters.Verdicts = {}


class Accounts:
    """All users' accounts. Root and *owner*, the daemon's user, may have any number of all but the first two."""

    def __init__(self, owner: int, limits: Limits) -> None:
        self.limits = limits
        self._trusted = (0, owner)
        self._users: dict[int, _User] = {}
        self._shared: WeakValueDictionary[int, Shared] = WeakValueDictionary()
        self.watches = 0
        """In all."""
        self.recursive = 0
        """Watches that cover a tree."""
        self.turns = 0
        """How often such a watch has come, gone or changed."""
        self.origins = 0
        """Watches that ask which process it was."""

    def shared(self, uid: int) -> Shared:
        """What the instances of *uid* share; each keeps it."""
        shared = self._shared.get(uid)
        if shared is None:
            most = sys.maxsize if uid in self._trusted else self.limits.max_user_queued_bytes
            shared = self._shared[uid] = Shared(most)
        return shared

    def open(self, instance: Instance) -> None:
        """Admit *instance*; EMFILE when its user has ``max_user_instances``."""
        user = self._users.setdefault(instance.uid, _User())
        if user.instances >= self.limits.max_user_instances:
            raise OSError(errno.EMFILE, "max_user_instances reached")
        user.instances += 1

    def close(self, instance: Instance) -> None:
        """*instance*, which has no watches any more, has ended."""
        self.draft(instance, -instance.drafted)
        user = self._users[instance.uid]
        user.instances -= 1
        user.large -= instance.large
        if not user.instances:
            del self._users[instance.uid]

    def afford_watch(self, instance: Instance, mask: int) -> None:
        """ENOSPC when the user has ``max_user_watches``, or by this *mask* too many recursive ones."""
        if self._users[instance.uid].watches >= self.limits.max_user_watches:
            raise OSError(errno.ENOSPC, "max_user_watches reached")
        self.afford_recursive(instance, mask)

    def afford_recursive(self, instance: Instance, mask: int) -> None:
        """ENOSPC when this *mask* asks for a recursive watch more than the user may have."""
        if not mask & X_RECURSIVE or instance.uid in self._trusted:
            return
        if self._users[instance.uid].recursive >= MOST_RECURSIVE:
            raise OSError(errno.ENOSPC, "this user has too many recursive watches")

    def afford(self, instance: Instance, chosen: Matcher | None, replaced: Matcher | None) -> None:
        """ENOSPC when *chosen*, in place of *replaced*, makes the user's filters cost too much."""
        if chosen is None or instance.uid in self._trusted:
            return
        spent = self._users[instance.uid].filters - (replaced.cost if replaced else 0)
        if spent + chosen.cost > filters.MOST_OF_USER:
            raise OSError(errno.ENOSPC, "this user's filters have too many rules")

    def draft(self, instance: Instance, cost: int) -> None:
        """Count what a draft of a filter costs more than before, or less; ENOSPC when the user's are too many."""
        user = self._users[instance.uid]
        if cost > 0 and instance.uid not in self._trusted and user.drafts + cost > filters.MOST_OF_USER:
            raise OSError(errno.ENOSPC, "this user's drafts have too many rules")
        user.drafts += cost
        instance.drafted += cost

    def afford_large(self, instance: Instance) -> bool:
        """Whether the event descriptor of *instance* may have a large buffer; it has one then."""
        user = self._users[instance.uid]
        instance.large = instance.uid in self._trusted or user.large < MOST_LARGE
        user.large += instance.large
        return instance.large

    def count(self, watch: Watch, by: int) -> None:
        """One watch more (1), or less (-1)."""
        user = self._users[watch.instance.uid]
        self.watches += by
        user.watches += by
        if watch.mask & X_RECURSIVE:
            self.recursive += by
            self.turns += 1
            user.recursive += by
        if watch.filter is not None:
            user.filters += by * watch.filter.cost
        if watch.mask & X_ORIGIN or (watch.filter is not None and watch.filter.asks_process):
            self.origins += by
