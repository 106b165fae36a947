"""What administrators and their tools do to a host, most of them without a thought of the service.

They are chosen as such hosts meet them, not by what a check looks at.
"""

from tests.fleet.faults import Fault, exposed, next_start, treated


def _written(name: str, path: str, content: str) -> Fault:
    """Return a fault: a file of the system's configuration by which something stops the service later, and by whose path it is named."""
    make = f"mkdir -p $(dirname {path})\ncat > {path} <<'END'\n{content}\nEND"
    return Fault(name, "later", ("serving.schedule",), make, f"rm {path}", names=path, status="warn")


# As the kernel has an access control list: its version, then tag, rights and account of each entry.
_LET_GUEST_READ = """python3 - $prefix/etc/service.env $(id -u guest) <<'END'
import os, struct, sys
entries = [(1, 6, -1), (2, 4, int(sys.argv[2])), (4, 0, -1), (16, 4, -1), (32, 0, -1)]
rules = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
os.setxattr(sys.argv[1], "system.posix_acl_access", rules)
END"""
_LET_NOBODY_READ = """python3 - $prefix/etc/service.env <<'END'
import os, sys
os.removexattr(sys.argv[1], "system.posix_acl_access")
END
chmod 600 $prefix/etc/service.env"""

EXPOSED = (
    exposed(
        "the service's account in the group of Docker",
        "serving.account",
        "groupadd --system docker\nusermod -aG docker firstlight",
        "gpasswd --delete firstlight docker >&2\ngroupdel docker",
        names="docker",
    ),
    exposed(
        "sudo rights of the service's group",
        "serving.account",
        "echo '%firstlight ALL=(root) NOPASSWD: /usr/bin/systemctl' > /etc/sudoers.d/restarts\nchmod 440 /etc/sudoers.d/restarts",
        "rm /etc/sudoers.d/restarts",
        names="systemctl",
    ),
    exposed(
        "a backup of the key file that everybody may read",
        "installed.files",
        "mkdir -p /var/backups\ninstall -m 644 $prefix/etc/service.env /var/backups/service.env",
        "rm /var/backups/service.env",
        names="/var/backups/service.env",
    ),
    exposed(
        "another account that an access control list lets read the key",
        "installed.files",
        _LET_GUEST_READ,
        _LET_NOBODY_READ,
        names="service.env has mode 0640",
    ),
    exposed(
        "a shell that becomes root, where the service may write",
        "serving.start",
        "install -m 4755 /bin/bash $prefix/cache/sh",
        "rm $prefix/cache/sh",
        names="/cache/sh belongs to user 0",
    ),
    exposed(
        "a key by which somebody logs in as the service's account",
        "serving.account",
        "home=$(getent passwd firstlight | cut -d: -f6)\nmkdir -p $home/.ssh\ncp /root/.ssh/authorized_keys $home/.ssh/",
        "rm -r $(getent passwd firstlight | cut -d: -f6)/.ssh",
        names="authorized_keys",
    ),
    exposed(
        "a web server that hands out the installation",
        "serving.relays",
        "systemd-run --quiet --unit=shared --uid=firstlight python3 -m http.server --directory $prefix 9001\n"
        "until ss -Hltn | grep -q :9001; do sleep 0.2; done",
        "systemctl stop shared",
        names="port 9001",
        status="warn",
    ),
)
"""Rights and copies that somebody gave for a moment."""
NAMED = EXPOSED[:3]
"""Those that a run names where it finds nothing to do."""

LATER = (
    _written(
        "a scheduled command that restarts it each night",
        "/etc/cron.d/nightly",
        "0 3 * * * root systemctl restart firstlight-vllm",
    ),
    _written(
        "a rule that deletes old files of models",
        "/etc/tmpfiles.d/models.conf",
        "e /opt/firstlight/models - - - 10d",
    ),
    _written(
        "a rotation of logs that kills the server",
        "/etc/logrotate.d/vllm",
        "/opt/firstlight/logs/*.log {\n  daily\n  postrotate\n    pkill -HUP -f vllm\n  endscript\n}",
    ),
    Fault(
        "a default of the manager that allows few processes",
        "later",
        ("serving.unit",),
        "mkdir -p /etc/systemd/system.conf.d\n"
        "printf '[Manager]\\nDefaultLimitNPROC=64\\n' > /etc/systemd/system.conf.d/limits.conf\nsystemctl daemon-reload",
        "rm /etc/systemd/system.conf.d/limits.conf\nsystemctl daemon-reload",
        names="LimitNPROC",
    ),
)
"""What stops the service later, or limits its next start."""

TREATED = (
    Fault(
        "a share of one processor, set until the next boot",
        "unit",
        ("serving.unit",),
        "systemctl set-property --runtime $unit CPUQuota=20%",
        "rm -r /run/systemd/system.control/$unit.d\nsystemctl daemon-reload",
        names="CPUQuota",
    ),
    treated("a lower priority", "renice -n 19 -p $pid >&2", "renice -n 0 -p $pid >&2", names="niceness 19 instead of"),
    treated(
        "disks only when nobody else wants them",
        "ionice -c 3 -p $pid",
        "ionice -c 0 -p $pid",
        names="I/O class idle instead of",
    ),
)
"""What runs, treated otherwise."""

NEXT_START = (
    next_start(
        "accounts that only a directory service knows",
        "cp /etc/nsswitch.conf $kept/\nsed -i 's/^passwd:.*/passwd: ldap/' /etc/nsswitch.conf",
        "cat $kept/nsswitch.conf > /etc/nsswitch.conf",
        names="there is no account firstlight",
    ),
    next_start(
        "a full disk below the cache",
        "mount -t tmpfs -o size=64k,uid=firstlight tmpfs $prefix/cache",
        "umount --lazy $prefix/cache",
        names="/cache has room for 0 MiB",
    ),
    next_start(
        "a cache on a file system that is mounted read-only",
        "mount --bind $prefix/cache $prefix/cache\nmount -o remount,bind,ro $prefix/cache",
        "umount --lazy $prefix/cache",
        names="/cache is on a file system that is mounted read-only",
    ),
    next_start(
        "shared memory that only root may write",
        "chmod 755 /dev/shm",
        "chmod 1777 /dev/shm",
        names="/dev/shm can be written by root only",
    ),
)
"""What the next start would meet."""

DRIFTED = (
    Fault(
        "another release of a package, whose record agrees",
        "files",
        ("libraries.lock",),
        "cd $site\ncp -rp idna-*.dist-info $kept/\nmv idna-*.dist-info idna-99.0.dist-info\n"
        "sed -i 's/^Version: .*/Version: 99.0/' idna-99.0.dist-info/METADATA\n"
        "sed -i 's/^idna-[0-9.]*dist-info/idna-99.0.dist-info/; s/METADATA,.*/METADATA,,/' idna-99.0.dist-info/RECORD",
        "rm -r $site/idna-99.0.dist-info\nmv $kept/idna-*.dist-info $site/",
        names="idna",
    ),
)
"""What somebody put into the environment."""

ALL = (*EXPOSED, *LATER, *TREATED, *NEXT_START, *DRIFTED)
