"""What changed between two runs, host by host: records in, differences out (docs/reference/logs.md).

`differences(before, after)` compares what runs know of their hosts; `read_records` reads that from a run's folder, and
`last_green` finds for each host the run in which it was green last. Nothing here writes.
"""

from provision.report.difference.baseline import last_green, since_green
from provision.report.difference.compare import differences
from provision.report.difference.records import HostRecords, RunRecords, read_records

__all__ = ["HostRecords", "RunRecords", "differences", "last_green", "read_records", "since_green"]
