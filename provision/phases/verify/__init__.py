"""Phase `verify`: sends `verify/` to a host as one file, runs its checks there, and reads their results.

Every answer of a host becomes records. A tool that cannot run, crashes or prints something else is one record with status
`error` and the id `frame.run`; only an unreachable host raises.
"""
