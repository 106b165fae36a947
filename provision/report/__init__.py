"""Summary of a run: what happened, what holds now, what to do next (docs/reference/summary.md)."""

from provision.core.files import write_atomically
from provision.core.folders import as_typed
from provision.core.models.records import Summary
from provision.core.run_folder import RunFolder
from provision.report import run_files, summary_builder, text
from provision.report.difference import since_green
from provision.report.history.runs import GREEN_FILE


def summarise(run: RunFolder, *, interrupted: bool = False) -> Summary:
    """Summarize a run's folder, without secrets. A missing file means that the phase was not reached.

    For hosts that failed, earlier runs in the same log folder are compared to find what changed since the host was green.
    """
    summary = summary_builder.build(run_files.read(run), interrupted=interrupted)
    failed = [host.name for host in summary.hosts if host.state in ("failed", "unreachable")]
    if not failed:
        return summary
    changed = since_green(run.logs, run.name, failed)
    hosts = (host.model_copy(update={"since_green": changed.get(host.name)}) for host in summary.hosts)
    return summary.model_copy(update={"hosts": tuple(hosts)})


def write(run: RunFolder, summary: Summary) -> dict[str, str]:
    """Write summary.json and summary.txt into the run's folder, and the names of green hosts, each atomically.

    Raises:
        OSError: The folder cannot be written.
    """
    texts = {
        "summary.json": summary.model_dump_json(indent=2) + "\n",
        "summary.txt": text.render(summary),
    }
    for name, content in texts.items():
        # Only one file is flushed to the disk: a busy disk takes its time.
        write_atomically(run.path(name), as_typed(content), durable=name == "summary.json")
    run.write(GREEN_FILE, sorted(host.name for host in summary.hosts if summary_builder.is_green(host)))
    return texts
