"""Faults around what serves: what lets others in, what stops it later, and what its next start would meet."""

from tests.fleet.faults import Fault, exposed, next_start

_RELAY = """import socket, threading
server = socket.create_server(("0.0.0.0", 9000))
while True:
    client, _ = server.accept()
    there = socket.create_connection(("127.0.0.1", 8000))
    threading.Thread(target=lambda: there.sendall(client.recv(65536))).start()
"""

EXPOSED = (
    exposed(
        "a copy of the key file that everybody may read",
        "installed.files",
        "install -m 644 $prefix/etc/service.env /var/tmp/service.env.bak",
        "rm /var/tmp/service.env.bak",
        names="service.env.bak",
    ),
    exposed(
        "a relay on every address",
        "serving.relays",
        f"cat > /srv/relay.py <<'END'\n{_RELAY}END\nsystemd-run --quiet --unit=relay python3 /srv/relay.py\n"
        "until ss -Hltn | grep -q :9000; do sleep 0.2; done",
        "systemctl stop relay\nrm /srv/relay.py",
        names="port 9000",
        status="warn",
    ),
    exposed(
        "a package that everybody may change",
        "installed.files",
        "chmod 777 $site/vllm",
        "chmod 755 $site/vllm",
        names="site-packages/vllm",
    ),
    exposed(
        "a program that nobody installed, which root runs before each start",
        "installed.files",
        "file=$prefix/bin/preflight.pyz\nkeep $file\ncp -p $prefix/bin/ready.pyz $file",
        "file=$prefix/bin/preflight.pyz\nrestore $file",
        names="preflight.pyz",
    ),
    exposed(
        "sudo rights of the service's account",
        "serving.account",
        "echo 'firstlight ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/fault\nchmod 440 /etc/sudoers.d/fault",
        "rm /etc/sudoers.d/fault",
        names="NOPASSWD",
    ),
    exposed(
        "a login shell of the service's account",
        "serving.account",
        "usermod -s /bin/bash firstlight",
        "usermod -s /usr/sbin/nologin firstlight",
        names="/bin/bash",
    ),
)
"""What lets others read, change or reach what serves, or the service do more."""

_ALL_SERVICES = "/etc/systemd/system/service.d"

LATER = (
    Fault(
        "a drop-in for all services that ends them after a time",
        "later",
        ("serving.unit",),
        f"mkdir {_ALL_SERVICES}\nprintf '[Service]\\nRuntimeMaxSec=12h\\n' > {_ALL_SERVICES}/50-fault.conf\nsystemctl daemon-reload",
        f"rm -r {_ALL_SERVICES}\nsystemctl daemon-reload",
        names="RuntimeMaxSec",
    ),
    Fault(
        "a unit that conflicts",
        "later",
        ("serving.schedule",),
        "printf '[Unit]\\nConflicts=firstlight-vllm.service\\n[Service]\\nExecStart=/bin/true\\n[Install]\\nWantedBy=multi-user.target\\n'"
        " > /etc/systemd/system/burn-in.service\nsystemctl enable --quiet burn-in.service",
        "systemctl disable --quiet burn-in.service\nrm /etc/systemd/system/burn-in.service\nsystemctl daemon-reload",
        names="burn-in.service",
        status="warn",
    ),
    Fault(
        "a timer that stops it",
        "later",
        ("serving.schedule",),
        "systemd-run --quiet --on-active=6h --unit=nightly systemctl stop firstlight-vllm",
        "systemctl stop nightly.timer",
        names="nightly.timer",
        status="warn",
    ),
    Fault(
        "a boot into a target without services",
        "later",
        ("serving.schedule",),
        "systemctl --quiet set-default rescue.target",
        "systemctl --quiet set-default graphical.target",
        names="rescue.target",
    ),
)
"""What stops the service later, or keeps the next boot from starting it."""

NEXT_START = (
    next_start(
        "a variable of the manager that changes which libraries are found",
        "systemctl set-environment LD_LIBRARY_PATH=/srv/lib",
        "systemctl unset-environment LD_LIBRARY_PATH",
        names="LD_LIBRARY_PATH=/srv/lib",
    ),
    next_start(
        "a proxy of the manager",
        "systemctl set-environment https_proxy=http://192.0.2.1:3128",
        "systemctl unset-environment https_proxy",
        names="https_proxy",
        status="warn",
    ),
    next_start(
        "a cache that belongs to root",
        "chown root: $prefix/cache",
        "chown firstlight: $prefix/cache",
        names="/cache belongs to user 0",
    ),
    next_start(
        "a library of the system that is gone",
        "mv /lib/x86_64-linux-gnu/libnuma.so.1 $kept/",
        "mv $kept/libnuma.so.1 /lib/x86_64-linux-gnu/",
        names="libnuma.so.1",
    ),
    next_start(
        "a foreign library in the loader's folders",
        "mkdir -p /srv/lib\ncp /lib/x86_64-linux-gnu/libnuma.so.1 /srv/lib/\necho /srv/lib > /etc/ld.so.conf.d/00-fault.conf\nldconfig",
        "rm -r /srv/lib /etc/ld.so.conf.d/00-fault.conf\nldconfig",
        names="/srv/lib/libnuma.so.1",
        status="warn",
    ),
    next_start(
        "a localhost that is another host",
        "cp /etc/hosts $kept/\nsed -i 's/^127.0.0.1 localhost/192.0.2.1 localhost/' /etc/hosts",
        "cat $kept/hosts > /etc/hosts",
        names="localhost is 192.0.2.1",
    ),
    Fault(
        "lines of the variables that end as on Windows",
        "next start",
        ("serving.unit",),
        "file=$prefix/etc/service.env\nkeep $file\nsed -i 's/$/\\r/' $file",
        "file=$prefix/etc/service.env\nrestore $file",
        names="carriage returns",
    ),
)
"""What the next start would meet."""
