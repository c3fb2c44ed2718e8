"""The few milliseconds between fork and exec of a child: join its namespaces, give up what it may not have, exec.

Run by `lateen.net.spawn` as `python -I -S -c ... FIELDS... ARGV...`; never by hand. Being exec'd over, it is the very
process that its parent waits for. What fails is written to the report descriptor, as `errno\\nmessage`; success
closes it. Imports are few on purpose: `typing`, `signal` or `dataclasses` would cost as much as all that is done here.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the C module below `signal`, which has no stub
import os
import resource
import sys

from lateen.net import kernel

__all__ = ["ALONE", "AS_IT_IS", "Plan", "main"]

ALONE = -2
AS_IT_IS = -2
NUMBERS = 10  # fields of a `Plan` beside the file
RESOLV_CONF = "/etc/resolv.conf"
MASK = "/dev/null"
ASK_THE_HOST = (
    # Sockets by which the C library (nss-resolve, nscd) would have the host, not the mesh, look names up. A bind of
    # /dev/null over one makes it refuse, and the library goes on to /etc/resolv.conf.
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/nscd/socket",
    "/var/run/nscd/socket",
    "/run/avahi-daemon/socket",
)
PROXY_KEEPS = frozenset({kernel.CAP_NET_ADMIN, kernel.CAP_NET_BIND_SERVICE, kernel.CAP_DAC_OVERRIDE})
"""NET_ADMIN for SO_MARK; DAC_OVERRIDE because with root the state folder may be another user's (sudo)."""
APP_LOSES = frozenset({kernel.CAP_NET_ADMIN, kernel.CAP_NET_RAW, kernel.CAP_SYS_ADMIN, kernel.CAP_SYS_PTRACE})
"""With root: NET_ADMIN and NET_RAW may set marks, SYS_ADMIN and SYS_PTRACE get at namespaces or at the proxy."""


class Plan:
    """What to do before exec. Travels as one argument a field, in the order of the parameters."""

    def __init__(
        self,
        resolv_conf: str,  # file to show as /etc/resolv.conf; "" to leave the host's
        parent: int,  # pid that must still be the parent
        signal: int,  # sent when it ends
        report: int,  # descriptor
        netns: int,  # descriptor; -1: stay in the host's network, and change nothing else either; ALONE: a new one
        userns: int,  # descriptor; -1 with root
        app: int,  # 1 for an application, 0 for a proxy
        uid: int,  # what an application is mapped back to
        gid: int,
        drop_lc_ctype: int,  # 1: Python's locale coercion may have set LC_CTYPE, which the child is not to see
        core: int,  # bytes of an application's core dump, -1 for any, AS_IT_IS; a proxy, which holds keys, leaves none
    ) -> None:
        self.resolv_conf = resolv_conf
        self.numbers = (parent, signal, report, netns, userns, app, uid, gid, drop_lc_ctype, core)
        self.parent, self.signal, self.report = parent, signal, report
        self.netns, self.userns, self.app = netns, userns, app
        self.uid, self.gid, self.drop_lc_ctype, self.core = uid, gid, drop_lc_ctype, core

    def arguments(self) -> list[str]:
        """Return the fields for `main`."""
        return [self.resolv_conf, *(str(number) for number in self.numbers)]


def main() -> None:
    """Do as `sys.argv` says; does not return."""
    numbers, argv = sys.argv[2 : 2 + NUMBERS], sys.argv[2 + NUMBERS :]
    plan = Plan(sys.argv[1], *[int(number) for number in numbers])
    for fd in (plan.report, plan.netns, plan.userns):
        if fd >= 0:
            os.set_inheritable(fd, False)
    step = "namespaces"
    try:
        if plan.netns >= 0:
            _enter(plan)
        elif plan.netns == ALONE:
            _leave_every_network()
        if not kernel.die_with_parent(plan.signal, plan.parent):
            os._exit(0)  # nobody is left to report to
        _limit_core(plan)
        # The interpreter ignores these two, and exec would hand that on.
        _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
        _signal.signal(_signal.SIGXFSZ, _signal.SIG_DFL)
        if plan.drop_lc_ctype:
            os.environ.pop("LC_CTYPE", None)
        step = argv[0]
        os.execvp(argv[0], argv)  # noqa: S606  # no shell is the point
    except OSError as error:
        os.write(plan.report, f"{error.errno}\n{step}: {os.strerror(error.errno or 0)}".encode())
    os._exit(127)


def _limit_core(plan: Plan) -> None:
    if not plan.app:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    elif plan.core != AS_IT_IS:
        resource.setrlimit(resource.RLIMIT_CORE, (plan.core, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _leave_every_network() -> None:
    """Go into a network without any link; stay where the machine allows no such thing."""
    for flags in (kernel.CLONE_NEWUSER | kernel.CLONE_NEWNET, kernel.CLONE_NEWNET):
        try:
            kernel.unshare(flags)
        except OSError:
            continue
        return


def _enter(plan: Plan) -> None:
    if plan.userns >= 0:
        kernel.setns(plan.userns, kernel.CLONE_NEWUSER)
    kernel.setns(plan.netns, kernel.CLONE_NEWNET)
    folder = os.getcwd()
    kernel.unshare(kernel.CLONE_NEWNS)
    # A slave, not private: what the host unmounts must not stay busy because of us.
    kernel.mount("none", "/", kernel.MS_REC | kernel.MS_SLAVE)
    _redirect_lookups(plan.resolv_conf)
    os.chdir(folder)
    if not plan.app:
        kernel.keep_capabilities(PROXY_KEEPS)
    elif plan.userns >= 0:
        # One more user namespace: the application sees its user's own id, and holds nothing over the network above it.
        kernel.unshare(kernel.CLONE_NEWUSER)
        kernel.map_user(plan.uid, plan.gid, 0, 0)
    else:
        kernel.keep_capabilities(frozenset(range(kernel.last_capability() + 1)) - APP_LOSES)


def _redirect_lookups(resolv_conf: str) -> None:
    if not resolv_conf:
        return
    if os.path.exists(RESOLV_CONF):  # a symbolic link is followed, by this and by mount(2)
        kernel.mount(resolv_conf, RESOLV_CONF, kernel.MS_BIND)
    # Absent or dangling there is nothing to mount over. The C library then asks 127.0.0.1, which is captured like any
    # other; only search domains are lost.
    for path in ASK_THE_HOST:
        if os.path.exists(path):
            kernel.mount(MASK, path, kernel.MS_BIND)
