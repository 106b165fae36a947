"""Conversion of the probe's output to host facts: pure functions that accept any text."""

from provision.core.models.facts import HostFacts
from provision.core.run_folder import utc_of
from provision.fleet.ssh.upload import RemoteFiles
from provision.phases.probe import sections
from provision.phases.probe.parsers import amd, configuration, hardware, nvidia, product, system

CUT = "the end of the probe's output is missing"
"""Reason in `unknown["host"]`. The missing part may describe a GPU, so no decision may use the rest."""

_LAST_S = 253402300799.0
"""The last second that a time can name: the end of the year 9999."""


def parse(
    host_name: str,
    output: str | bytes,
    *,
    sent_unix_s: float | None = None,
    received_unix_s: float | None = None,
    as_root: str | bytes | None = None,
) -> HostFacts:
    """Return the facts in the probe script's output.

    Never raise: a value that cannot be read is None, with its reason in `unknown`.

    Args:
        sent_unix_s: Controller's clock before the round trip.
        received_unix_s: Controller's clock after the round trip; without it the clock skew is unknown.
        as_root: Output of a second run as root with the same nonce, for sections that the login user may not read.
    """
    read = sections.split(output)
    if as_root is not None:
        read = read.overlaid(sections.split(as_root))
    unknown: dict[str, str] = {}
    if not read.nonce:
        unknown["host"] = " ".join(sections.clean(output).split())[:200] or "the probe printed nothing"
    elif read.outcome is None:
        unknown["host"] = CUT
    if not read.clock or not received_unix_s:
        unknown["clock_skew_s"] = "the clocks were not read at the end of the round trip"
    processor = hardware.cpu(read["cpu"], unknown)
    mounts = hardware.disks(read["disks"], unknown)
    programs = system.programs(read["programs"], unknown)
    bus = hardware.bus(read["pci"], unknown)
    engines = system.engine_processes(read["engines"], unknown)
    return HostFacts(
        host=host_name,
        probed_at=utc_of(min(received_unix_s or read.clock or 0.0, _LAST_S)),
        seconds=None if sent_unix_s is None or received_unix_s is None else round(received_unix_s - sent_unix_s, 3),
        # The script reads the host's clock last: only the way of its answer lies between the two.
        clock_skew_s=round(read.clock - received_unix_s, 3) if read.clock and received_unix_s else None,
        os=system.operating_system(read, unknown),
        user=system.user(read, unknown),
        cpu=processor,
        memory=hardware.memory(read, mounts, unknown),
        disks=mounts,
        pythons=system.pythons(read["pythons"], unknown),
        programs=programs,
        libraries=system.libraries(read["libraries"], unknown),
        pci_gpus=bus.gpus,
        topology=hardware.topology(read, bus, unknown),
        kernel_modules=hardware.kernel_modules(read["modules"], unknown),
        secure_boot=system.secure_boot(read, unknown),
        nvidia=nvidia.nvidia(read, bus, unknown),
        amd=amd.amd(read, bus, unknown),
        cuda_toolkits=system.cuda_toolkits(read["cuda_toolkits"], programs, unknown),
        container=system.container(read["isolation"], unknown),
        virtualization=system.virtualization(read["isolation"], processor.flags),
        product=read["isolation"].value("product_name"),
        wsl=system.wsl(read["isolation"]),
        ports=system.ports(read, unknown),
        engine_processes=engines,
        installed=product.installed(read, engines, unknown),
        incoming=RemoteFiles.parse(read["incoming"].text).sizes(),
        configuration=configuration.configuration(read, unknown),
        unknown=unknown,
    )
