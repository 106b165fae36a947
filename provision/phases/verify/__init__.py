"""The phase `verify`: ships the checks of `verify/` to a host as one file, runs them there, and reads what they say.

Whatever a host answers becomes records. A tool that cannot run, dies or prints something else is one record with status
`error` and the id `frame.run`; only a host that cannot be reached raises.
"""
