"""How a run leaves its function before the end. Not errors: a user's ``except Exception`` must let them pass."""


class Stop(BaseException):
    """The function is left here; what it has finished is in the journal."""


class Lost(Stop):
    """Another worker holds the run now, or it was cancelled; nothing more may be written."""


class Parked(Stop):
    """The run sleeps or waits, and was written down so."""


class Changed(Stop):
    """The code asks for other steps than the ones that were finished."""
