"""Where work runs: a job is a command, a spec file and a result folder."""
